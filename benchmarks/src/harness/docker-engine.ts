import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describeResult, mustRun, runCommand, type CommandResult } from './run-command.ts';
import { waitFor } from './wait-for.ts';

/** Image of every container here: busybox and nothing else. */
export const busyboxImage = 'bb';

/**
 * A new mount namespace has copies of all mounts there are. Those that other tests have below the folder of
 * temporary files are given up: their devices would stay in use until this engine ends.
 */
const forgetOthers =
  'for at in $(cut -d " " -f 2 /proc/self/mounts); do case "$at" in ' +
  '"$1"|"$1"/*) ;; "$2"/*) umount -l "$at" 2>/dev/null || true ;; esac; done';

/**
 * One Docker Engine in a folder, as a process that is known by its own child handle. It lives in mount
 * namespaces of its own, in which it finds only its own plug-ins; what is mounted beside its folder, in one that
 * is shared, is seen there too. Needs root, Debian's docker.io and busybox-static.
 */
export class DockerEngine {
  /** for the sockets of its plug-ins */
  readonly pluginDir: string;
  /** for spec files, which name sockets elsewhere */
  readonly specDir: string;
  readonly #dir: string;
  #child: ChildProcess | null = null;
  #exited: Promise<void> = Promise.resolve();

  constructor(dir: string) {
    this.#dir = dir;
    this.pluginDir = join(dir, 'plugins');
    this.specDir = join(dir, 'specs');
    for (const each of [this.pluginDir, this.specDir]) mkdirSync(each, { recursive: true });
  }

  /** Starts it, as often as it was ended, and waits until it answers. Containers outlive it. */
  async start(): Promise<void> {
    // where every dockerd looks for plug-ins
    const [sockets, specs] = ['/run/docker/plugins', '/etc/docker/plugins'] as const;
    for (const each of [sockets, specs]) mkdirSync(each, { recursive: true });
    const log = openSync(this.logPath, 'a');
    const dockerd = [
      ...[
        'dockerd',
        '--data-root',
        join(this.#dir, 'data'),
        '--exec-root',
        join(this.#dir, 'exec'),
      ],
      ...['-H', this.#host, '--pidfile', join(this.#dir, 'dockerd.pid'), '--live-restore'],
      ...['--storage-driver', 'vfs', '--iptables=false', '--ip6tables=false', '--bridge=none'],
      ...['--config-file', join(this.#dir, 'daemon.json')],
    ];
    writeFileSync(join(this.#dir, 'daemon.json'), '{}');
    const script = `${forgetOthers}; shift 2
mount --bind "$1" ${sockets} && mount --bind "$2" ${specs} && shift 2 && exec "$@"`;
    const child = spawn(
      'unshare',
      [
        ...['--mount', '--propagation', 'slave', 'sh', '-c', script, 'sh'],
        ...[dirname(this.#dir), tmpdir(), this.pluginDir, this.specDir],
        ...dockerd,
      ],
      { stdio: ['ignore', log, log] },
    );
    closeSync(log);
    this.#child = child;
    this.#exited = new Promise((resolve) => {
      const over = (): void => {
        if (this.#child === child) this.#child = null;
        resolve();
      };
      child.once('exit', over);
      child.once('error', over);
    });
    await waitFor(
      'dockerd to answer',
      async () => {
        if (!this.#child) return 'ended';
        return (await this.docker('version')).code === 0 ? 'ready' : null;
      },
      { deadlineMs: 60_000, intervalMs: 200 },
    ).then((state) => {
      if (state === 'ended') throw new Error(`dockerd ended at start:\n${this.logTail()}`);
    });
  }

  /** Makes the image `busyboxImage`. */
  async importBusybox(): Promise<void> {
    const root = join(this.#dir, 'image');
    mkdirSync(join(root, 'bin'), { recursive: true });
    const busybox = existsSync('/bin/busybox') ? '/bin/busybox' : '/usr/bin/busybox';
    await mustRun('cp', [busybox, join(root, 'bin/busybox')]);
    for (const name of ['sh', 'cat', 'ls', 'test', 'sync', 'sleep', 'echo', 'md5sum', 'dd']) {
      await mustRun('ln', ['-sf', 'busybox', join(root, 'bin', name)]);
    }
    const pipe = 'set -o pipefail; tar -C "$1" -c . | docker -H "$2" import - "$3"';
    await mustRun('bash', ['-c', pipe, 'bash', root, this.#host, busyboxImage]);
  }

  docker(...args: string[]): Promise<CommandResult> {
    return runCommand('docker', ['-H', this.#host, ...args], {
      // it keeps nothing of this test in the user's folder
      env: { DOCKER_CONFIG: join(this.#dir, 'config') },
      timeoutMs: 150_000,
    });
  }

  /** As `docker`, and throws unless it ends with 0; the standard output without the last newline. */
  async must(...args: string[]): Promise<string> {
    const result = await this.docker(...args);
    if (result.code !== 0) throw new Error(`${describeResult(result)}\n${this.logTail()}`);
    return result.stdout.replace(/\n$/, '');
  }

  /** Runs a shell in a new container with a volume of our driver at /data, and removes the container. */
  shell(volume: string, script: string, ...more: string[]): Promise<CommandResult> {
    return this.docker(
      ...['run', '--rm', '--network', 'none', '--volume-driver', 'stor'],
      ...['-v', `${volume}:/data`, ...more, busyboxImage, 'sh', '-c', script],
    );
  }

  /** SIGTERM; containers go on. */
  async stop(): Promise<void> {
    this.#child?.kill('SIGTERM');
    await this.#exited;
  }

  /** As the death of the host: the engine, what it runs containers with, and all its containers. */
  async killAll(): Promise<void> {
    const containers = (await this.docker('ps', '-q')).stdout.split('\n').filter(Boolean);
    const pids: number[] = [];
    for (const id of containers) {
      const pid = Number((await this.docker('inspect', '-f', '{{.State.Pid}}', id)).stdout);
      if (!(pid > 1)) continue;
      // its parent is the shim that looks after it
      pids.push(parentOf(pid), pid);
    }
    const containerd = join(this.#dir, 'exec/containerd/containerd.pid');
    if (existsSync(containerd)) pids.push(Number(readFileSync(containerd, 'utf8')));
    this.#child?.kill('SIGKILL');
    for (const pid of pids) killIfThere(pid);
    await this.#exited;
  }

  get logPath(): string {
    return join(this.#dir, 'dockerd.log');
  }

  logTail(bytes = 4_000): string {
    const log = existsSync(this.logPath) ? readFileSync(this.logPath, 'utf8') : '';
    return `--- end of ${this.logPath} ---\n${log.slice(-bytes)}`;
  }

  get #host(): string {
    return `unix://${join(this.#dir, 'docker.sock')}`;
  }
}

function parentOf(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/^PPid:\s*(\d+)$/m.exec(status)?.[1] ?? 0);
}

function killIfThere(pid: number): void {
  // never init, nor a whole group
  if (!(pid > 1)) return;
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it is gone
  }
}
