import { spawn, type ChildProcess } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Member, Node } from '@stor/protocol';
import { checkoutRoot } from '../harness/checkout.ts';
import { runCommand, type CommandResult } from '../harness/run-command.ts';
import { waitFor } from '../harness/wait-for.ts';
import type { Namespace, NamespaceNetwork } from '../namespaces/network.ts';

const apiPort = 17_110;
const volumeBytes = 16 * 1024 * 1024;
/** Time for the cluster to be as it should (ms), on a machine that does much else. */
const deadlineMs = 60_000;

export interface FormationFindings {
  /** voters after all have joined, after one was replaced, and after a restart of all */
  voters: number[];
  /** of the volume as it was written, through the compute-only node, and after the restart */
  hashes: string[];
  computeOnly: boolean;
  /** the old id of the wiped node is a member no more, and has no vote */
  oldIdIsGone: boolean;
  /** exit codes of a join with a used token, with none, and with the name of another node */
  refusals: number[];
  elapsedMs: number;
}

/** Five agents, each in a network namespace and a root folder of its own. */
class FormedCluster {
  readonly #network: NamespaceNetwork;
  readonly #dir: string;
  readonly #agents = new Map<number, ChildProcess>();

  constructor(network: NamespaceNetwork, dir: string) {
    this.#network = network;
    this.#dir = dir;
  }

  folder(index: number): string {
    return join(this.#dir, `n${index + 1}`);
  }

  address(index: number): string {
    return `${this.#network.node(index).address}:${apiPort}`;
  }

  /** Starts the agent of a node; without flags it goes on with the identity of its folder. */
  start(index: number, ...flags: string[]): void {
    mkdirSync(this.folder(index), { recursive: true });
    const log = openSync(join(this.#dir, `n${index + 1}.log`), 'a');
    const child = this.#spawn(index, flags, log);
    closeSync(log);
    this.#agents.set(index, child);
  }

  /** Runs an agent that is to be refused; resolves with its exit code. */
  async refused(index: number, ...flags: string[]): Promise<number> {
    const child = this.#spawn(index, flags, 'ignore');
    const [code] = (await once(child, 'exit')) as [number | null];
    return code ?? -1;
  }

  async kill(index: number): Promise<void> {
    const child = this.#agents.get(index);
    this.#agents.delete(index);
    if (!child || child.exitCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  }

  async close(): Promise<void> {
    await Promise.all([...this.#agents.keys()].map((index) => this.kill(index)));
  }

  storctl(...args: string[]): Promise<CommandResult> {
    const endpoints = [0, 1, 2, 3, 4].map((index) => this.address(index)).join(',');
    const command = [join(checkoutRoot(), 'bin/storctl'), '--endpoints', endpoints, ...args];
    const env = { STOR_SKIP_BUILD: '1' };
    return runCommand('nsenter', [inNet(this.#network.client), ...command], { env });
  }

  async must(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.storctl(...args);
    if (code === 0) return stdout.trim();
    throw new Error(`storctl ${args.join(' ')}: exit ${code}: ${stderr}`);
  }

  async members(): Promise<Member[]> {
    return JSON.parse(await this.must('cluster', 'members', '-o', 'json')) as Member[];
  }

  /** Waits until so many nodes are up, and three of the members vote and are up. */
  settled(what: string, holds: (members: Member[]) => boolean): Promise<Member[]> {
    return waitFor(
      what,
      async () => {
        const members = await this.members();
        if (holds(members)) return members;
        throw new Error(members.map(({ name, role, up }) => `${name} ${role} ${up}`).join(', '));
      },
      { deadlineMs, intervalMs: 700 },
    );
  }

  /** Of the part of the volume that was written. */
  async hash(file: string): Promise<string> {
    const out = join(this.#dir, file);
    await this.must('volume', 'export', 'db', out, '--force');
    return hashOf(readFileSync(out).subarray(0, volumeBytes));
  }

  /** Random bytes, written to the volume. */
  async fill(): Promise<string> {
    const image = join(this.#dir, 'image');
    const bytes = randomBytes(volumeBytes);
    writeFileSync(image, bytes);
    await this.must('volume', 'import', 'db', image);
    return hashOf(bytes);
  }

  #spawn(index: number, flags: string[], log: number | 'ignore'): ChildProcess {
    const netns = this.#network.node(index);
    const name = `n${index + 1}`;
    const place = ['--data-dir', this.folder(index), '--name', name, '--listen', netns.address];
    const agent = [join(checkoutRoot(), 'bin/stor-agent'), ...place, '--insecure-listen'];
    return spawn('nsenter', [inNet(netns), ...agent, ...flags], {
      stdio: ['ignore', log, log],
      env: { ...process.env, STOR_SKIP_BUILD: '1' },
    });
  }
}

const inNet = ({ name }: Namespace): string => `--net=/run/netns/${name}`;
const hashOf = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
const voting = (members: Member[]): Member[] =>
  members.filter(({ role, up }) => role !== 'learner' && up);
const allUp = (members: Member[]): boolean =>
  members.length === 5 && members.every(({ up }) => up) && voting(members).length === 3;

/**
 * Five agents form a cluster by `--bootstrap` and `--join`, four of them at once, one without disks;
 * one is wiped and replaced; all are killed and started again. What was written is read each time.
 */
export async function formInNamespaces(
  network: NamespaceNetwork,
  dir: string,
): Promise<FormationFindings> {
  const startMs = performance.now();
  const cluster = new FormedCluster(network, dir);
  try {
    cluster.start(0, '--bootstrap');
    const tokens = await waitFor('a token', () => cluster.must('token', 'create', '--uses', '4'), {
      deadlineMs,
    });
    for (const index of [1, 2, 3, 4]) {
      const more = index === 4 ? ['--compute-only'] : [];
      cluster.start(index, '--join', cluster.address(0), '--token', tokens, ...more);
    }
    const first = await cluster.settled('five members', allUp);
    await cluster.must('cluster', 'set', '--voter-wait', '5s');
    const refusals = await refusedJoins(cluster, tokens);
    await cluster.must('volume', 'create', 'db', '--size', '64MiB', '--replicas', '3');
    const hashes = [await cluster.fill()];

    const victim = first.find(({ name, role }) => role === 'voter' && name !== 'n1');
    const index = Number(victim?.name.slice(1)) - 1;
    await wipeAndReplace(cluster, index);
    const second = await cluster.settled('the replaced node to be in', (members) => {
      return allUp(members) && members.every(({ nodeId }) => nodeId !== victim?.nodeId);
    });
    await cluster.must('volume', 'attach', 'db', '--node', 'n5');
    hashes.push(await cluster.hash('through-n5'));
    await cluster.must('volume', 'detach', 'db');
    const nodes = JSON.parse(await cluster.must('node', 'ls', '-o', 'json')) as Node[];
    const disks = await cluster.must('disk', 'ls', '-o', 'json');

    await cluster.close();
    for (const each of [0, 1, 2, 3, 4]) cluster.start(each);
    const third = await cluster.settled('all to be back', allUp);
    hashes.push(await cluster.hash('after-restart'));
    const compute = nodes.find(({ metadata }) => metadata.name === 'n5')?.metadata.id ?? 'n5';
    return {
      voters: [first, second, third].map((members) => voting(members).length),
      hashes,
      computeOnly: !disks.includes(compute),
      oldIdIsGone: third.every(({ nodeId }) => nodeId !== victim?.nodeId),
      refusals,
      elapsedMs: performance.now() - startMs,
    };
  } finally {
    await cluster.close();
  }
}

/** Agents with folders of their own on the first node's network, never let in. */
async function refusedJoins(cluster: FormedCluster, used: string): Promise<number[]> {
  const join1 = ['--join', cluster.address(0), '--port', '18110', '--token'];
  const folder = (name: string): string[] => ['--data-dir', `${cluster.folder(0)}-${name}`];
  const fresh = await cluster.must('token', 'create');
  return Promise.all([
    cluster.refused(0, ...folder('used'), '--name', 'n9', ...join1, used),
    cluster.refused(0, ...folder('none'), '--name', 'n9', ...join1, 'none'),
    cluster.refused(0, ...folder('named'), '--name', 'n2', ...join1, fresh),
  ]);
}

async function wipeAndReplace(cluster: FormedCluster, index: number): Promise<void> {
  await cluster.kill(index);
  rmSync(cluster.folder(index), { recursive: true });
  // as long as it counts as up, its place is taken
  const member = `n${index + 1}`;
  await cluster.settled(`${member} to be found down`, (members) => {
    return members.some(({ name, up }) => name === member && !up);
  });
  const token = await cluster.must('token', 'create');
  const from = cluster.address(index === 0 ? 1 : 0);
  cluster.start(index, '--join', from, '--token', token, '--replace');
}
