import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { FioTarget } from '../fio/fio.ts';
import { checkoutRoot } from '../harness/checkout.ts';
import { OutputCollector } from '../harness/run-command.ts';
import { waitFor } from '../harness/wait-for.ts';
import type { OwnServer } from './block-server.ts';

/** Systems of several daemons that benchmarks/peers/NAME/serve.sh starts. */
export type PeerName = 'gluster' | 'ceph';

/** The slowest of them creates a disk of several GiB for each of its daemons first (ms). */
const startDeadlineMs = 150_000;
/** what is kept of its output when it does not start (characters) */
const logTailLength = 6_000;

interface PeerTarget {
  fio: FioTarget;
  env?: Record<string, string>;
}

/**
 * Starts a system in namespaces of its own for processes and mounts: when the script that started its
 * daemons ends, the kernel ends them all, so nothing is left behind a failure. Needs root. Rejects with
 * the end of its log when it does not start.
 */
export async function startPeer(
  name: PeerName,
  parentDir: string,
  sizeBytes: number,
): Promise<OwnServer> {
  const dir = join(parentDir, name);
  mkdirSync(dir);
  const script = join(checkoutRoot(), 'benchmarks/peers', name, 'serve.sh');
  const namespaces = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc'];
  const child = spawn('unshare', [...namespaces, 'bash', script, dir, String(sizeBytes)], {
    // The script ends when its input does, which it also does when this process dies.
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const output = new OutputCollector();
  child.stdout.on('data', (chunk: Buffer) => output.add(chunk));
  child.stderr.on('data', (chunk: Buffer) => output.add(chunk));
  child.stdin.on('error', () => undefined);
  const state = { ended: false };
  const exit = new Promise<void>((resolve) => {
    const over = (): void => {
      state.ended = true;
      resolve();
    };
    child.once('close', over);
    child.once('error', (error) => {
      output.add(Buffer.from(error.message));
      over();
    });
  });
  const close = async (): Promise<void> => {
    child.stdin.end();
    await exit;
    // fio's gfapi engine logs there, whatever one tells it
    rmSync('/tmp/fio_gfapi.log', { force: true });
  };
  const targetPath = join(dir, 'target.json');
  try {
    await waitFor(
      `${name} to serve`,
      () => {
        if (!state.ended && !existsSync(targetPath)) return false;
        return true;
      },
      { deadlineMs: startDeadlineMs, intervalMs: 100 },
    );
    if (state.ended) throw new Error(`${name} ended at its start`);
  } catch (error) {
    child.kill('SIGKILL');
    await close();
    throw new Error(`${(error as Error).message}\n${output.text().slice(-logTailLength)}`);
  }
  const target = JSON.parse(readFileSync(targetPath, 'utf8')) as PeerTarget;
  const namespace = pidNamespace(childOf(child.pid ?? 0));
  return {
    ...{ name, target: target.fio, ...(target.env ? { env: target.env } : {}) },
    pids: () => processesIn(namespace),
    close,
  };
}

function childOf(pid: number): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return Number(children.trim().split(' ')[0]);
}

function pidNamespace(pid: number): string {
  return readlinkSync(`/proc/${pid}/ns/pid`);
}

function processesIn(namespace: string): number[] {
  return readdirSync('/proc').flatMap((entry) => {
    const pid = Number(entry);
    if (!Number.isInteger(pid)) return [];
    try {
      return pidNamespace(pid) === namespace ? [pid] : [];
    } catch {
      return []; // it has ended meanwhile
    }
  });
}
