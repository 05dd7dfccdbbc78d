import { execFileSync } from 'node:child_process';
import { cpus, hostname, release, totalmem } from 'node:os';
import { checkoutRoot } from '../harness/checkout.ts';

export type Machine = Record<string, string | number>;

/** First line that a program prints, or why it prints none. */
function firstLine(command: string, args: readonly string[]): string {
  try {
    const text = execFileSync(command, args, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    return text.trim().split('\n')[0] ?? '';
  } catch {
    return 'not there';
  }
}

/** What ran where: figures of two machines, or of two versions, are not to be compared. */
export function describeMachine(dir: string): Machine {
  return {
    host: hostname(),
    kernel: release(),
    cpus: cpus().length,
    cpu: cpus()[0]?.model ?? '',
    memoryGiB: Math.round(totalmem() / 1024 ** 3),
    node: process.version,
    fileSystem: firstLine('stat', ['-f', '-c', '%T', dir]),
    fio: firstLine('fio', ['--version']),
    qemuNbd: firstLine('qemu-nbd', ['--version']),
    nbdkit: firstLine('nbdkit', ['--version']),
    gluster: firstLine('glusterd', ['--version']),
    ceph: firstLine('ceph-osd', ['--version']),
    commit: firstLine('git', ['-C', checkoutRoot(), 'describe', '--always', '--dirty']),
  };
}
