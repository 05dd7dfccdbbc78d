import { spawn, type ChildProcess } from 'node:child_process';
import { accessSync, constants, cpSync, mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { reservePorts } from '@stor/runtime/testing';
import type { Test } from 'tap';
import { loadEtcdServices } from '../etcd/etcd-services.ts';
import { EtcdEndpoint } from '../etcd/etcd-endpoint.ts';
import { credentials } from '@grpc/grpc-js';

/** Short, so that a leader is chosen within a moment and leases may last one second (ms). */
const heartbeatMs = 20;
const electionMs = 200;
/** An etcd that does not answer within this after its start does not work here (ms). */
const startTimeoutMs = 20_000;

/**
 * Whether real etcd servers can be started. Without the program the test is skipped and says which
 * Debian package has it; with CI=true that is a failure.
 */
export function needsEtcd(t: Test): boolean {
  const found = (process.env['PATH'] ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, 'etcd'), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
  if (found) return true;
  const message = 'etcd is missing: apt-get install etcd-server';
  if (process.env['CI'] === 'true') t.fail(message);
  else t.plan(0, message);
  return false;
}

export interface EtcdServerOptions {
  count?: number;
  /** PEM files: the servers take connections of clients by TLS only */
  tls?: { ca: string; cert: string; key: string };
}

/** Real etcd servers on loopback that form one cluster; they end with the test. */
export class EtcdServers {
  readonly clientPorts: number[];
  readonly #peerPorts: number[];
  readonly #folder: string;
  readonly #tls: EtcdServerOptions['tls'];
  readonly #processes = new Map<number, ChildProcess>();
  #log = '';
  #copies = 0;

  private constructor(folder: string, ports: number[], tls: EtcdServerOptions['tls']) {
    this.#folder = folder;
    this.#tls = tls;
    this.clientPorts = ports.slice(0, ports.length / 2);
    this.#peerPorts = ports.slice(ports.length / 2);
  }

  static async start(t: Test, options: EtcdServerOptions = {}): Promise<EtcdServers> {
    const ports = await reservePorts((options.count ?? 1) * 2);
    const folder = mkdtempSync(join(tmpdir(), 'stor-etcd-'));
    const servers = new EtcdServers(folder, ports, options.tls);
    t.teardown(async () => {
      if (!t.passing()) t.comment(servers.#log.slice(-4_000));
      await Promise.all(servers.clientPorts.map((_port, index) => servers.kill(index)));
      rmSync(folder, { recursive: true, force: true });
    });
    for (const index of servers.clientPorts.keys()) servers.launch(index);
    await servers.ready();
    return servers;
  }

  /** Waits until the server takes connections, whoever it lets in. */
  async #listens(index: number): Promise<boolean> {
    const port = this.clientPorts[index] ?? 0;
    return new Promise((resolve) => {
      const socket = connect({ host: '127.0.0.1', port });
      const end = (isOpen: boolean): void => {
        socket.destroy();
        resolve(isOpen);
      };
      socket.on('connect', () => {
        end(true);
      });
      socket.on('error', () => {
        end(false);
      });
    });
  }

  /**
   * Asks the first server for something as an operator would, through its JSON gateway: `auth/user/add`.
   */
  async ask(path: string, request: object): Promise<void> {
    const url = `http://${this.endpoints[0] as string}/v3/${path}`;
    const answer = await fetch(url, { method: 'POST', body: JSON.stringify(request) });
    if (!answer.ok) throw new Error(`etcd refused ${path}: ${await answer.text()}`);
  }

  /** HOST:PORT of each server */
  get endpoints(): string[] {
    return this.clientPorts.map((port) => `127.0.0.1:${port}`);
  }

  /** Of the whole cluster; `prefix` as in `etcd://HOST:PORT/PREFIX`. */
  address(prefix: string): string {
    return `etcd://${this.endpoints.join(',')}/${prefix}`;
  }

  /** Starts a server, with what it had when it was killed. */
  launch(index: number): void {
    const scheme = this.#tls ? 'https' : 'http';
    const client = `${scheme}://127.0.0.1:${this.clientPorts[index]}`;
    const peer = `http://127.0.0.1:${this.#peerPorts[index]}`;
    const members = this.#peerPorts.map((port, i) => `s${i}=http://127.0.0.1:${port}`);
    const tls = this.#tls;
    const options: Record<string, string> = {
      name: `s${index}`,
      'data-dir': join(this.#folder, `s${index}`),
      'listen-client-urls': client,
      'advertise-client-urls': client,
      'listen-peer-urls': peer,
      'initial-advertise-peer-urls': peer,
      'initial-cluster': members.join(','),
      'heartbeat-interval': String(heartbeatMs),
      'election-timeout': String(electionMs),
      'log-level': 'error',
      logger: 'zap',
      ...(tls && { 'cert-file': tls.cert, 'key-file': tls.key, 'trusted-ca-file': tls.ca }),
      ...(tls && { 'client-cert-auth': 'true' }),
    };
    const words = Object.entries(options).map(([name, value]) => `--${name}=${value}`);
    const server = spawn('etcd', words, { stdio: ['ignore', 'pipe', 'pipe'] });
    const note = (text: Buffer): void => {
      this.#log = (this.#log + text.toString()).slice(-16_000);
    };
    server.stdout.on('data', note);
    server.stderr.on('data', note);
    this.#processes.set(index, server);
  }

  /** What a server that is not running has on its disk, for `putBack`. */
  copyOf(index: number): string {
    const copy = join(this.#folder, `copy-${this.#copies++}`);
    cpSync(join(this.#folder, `s${index}`), copy, { recursive: true });
    return copy;
  }

  /** A server that is not running loses what it has; with `copy` it has what it had then. */
  putBack(index: number, copy: string | null): void {
    const folder = join(this.#folder, `s${index}`);
    rmSync(folder, { recursive: true });
    if (copy !== null) cpSync(copy, folder, { recursive: true });
  }

  /** Waits until a leader answers. */
  async ready(): Promise<void> {
    const endMs = performance.now() + startTimeoutMs;
    for (const [index, address] of this.endpoints.entries()) {
      while (!(await (this.#tls ? this.#listens(index) : this.#reads(address)))) {
        if (performance.now() > endMs) throw new Error(`etcd did not start:\n${this.#log}`);
        await pause(20);
      }
    }
  }

  pause(index: number): void {
    this.#processes.get(index)?.kill('SIGSTOP');
  }

  resume(index: number): void {
    this.#processes.get(index)?.kill('SIGCONT');
  }

  /** Resolves when the process is gone. */
  async kill(index: number): Promise<void> {
    const server = this.#processes.get(index);
    if (!server) return;
    this.#processes.delete(index);
    if (server.exitCode !== null || server.signalCode !== null) return;
    const gone = new Promise((resolve) => server.once('exit', resolve));
    server.kill('SIGKILL');
    await gone;
  }

  /** Has etcd forget all changes up to now. */
  async compact(): Promise<void> {
    const endpoint = await this.#endpoint(this.endpoints[0] as string);
    try {
      const read = await endpoint.call({ ...callParts, ...readRequest });
      if (read.type !== 'answered') throw new Error(`etcd did not answer: ${read.type}`);
      const { header } = read.response as { header: { revision: string } };
      const request = { revision: header.revision };
      const done = await endpoint.call({ ...callParts, method: 'Compact', request });
      if (done.type !== 'answered') throw new Error(`etcd did not compact: ${done.type}`);
    } finally {
      endpoint.close();
    }
  }

  async #endpoint(address: string): Promise<EtcdEndpoint> {
    return new EtcdEndpoint(address, await loadEtcdServices(), credentials.createInsecure());
  }

  async #reads(address: string): Promise<boolean> {
    const endpoint = await this.#endpoint(address);
    const { type } = await endpoint.call({ ...callParts, ...readRequest });
    endpoint.close();
    return type === 'answered';
  }
}

const callParts = {
  service: 'KV' as const,
  timeoutMs: 1_000,
  connectTimeoutMs: 1_000,
  local: false,
  signal: new AbortController().signal,
};
const readRequest = { method: 'Range', request: { key: new Uint8Array([0x20]) } };
