import { existsSync } from 'node:fs';
import { mustRun, runCommand } from '../harness/run-command.ts';
import { waitFor } from '../harness/wait-for.ts';

/** One network namespace and its address on the network. */
export interface Namespace {
  name: string;
  address: string;
}

/** Nodes of one network: the largest cluster store has seven members. */
export const maxNodes = 7;
const namePattern = /^stor(\d+)-(?:sw|cl|n\d+)$/;
/** Processes that do not end by SIGKILL within this time hang in the kernel (ms). */
const killWaitMs = 5_000;

/**
 * A small network of its own: a namespace with a bridge, and beside it a namespace for the clients
 * and one for each node, each tied to the bridge by a veth pair. Nothing of it is visible in the
 * namespace of the host, and deleting the namespaces deletes all of it.
 *
 * Names begin with `stor` and the id of the process that owns the network, so that a run finds and
 * removes what an earlier one that was killed has left.
 */
export class NamespaceNetwork {
  readonly prefix: string;
  readonly client: Namespace;
  readonly nodes: readonly Namespace[];

  constructor(prefix: string, nodes: number) {
    if (nodes < 1 || nodes > maxNodes) throw new Error(`${nodes} nodes; 1 to ${maxNodes} fit`);
    this.prefix = prefix;
    this.client = { name: `${prefix}-cl`, address: '10.77.0.2' };
    this.nodes = Array.from({ length: nodes }, (_, index) => ({
      name: `${prefix}-n${index + 1}`,
      address: `10.77.0.${index + 11}`,
    }));
  }

  /** Makes the network of this process. */
  static async create(nodes: number): Promise<NamespaceNetwork> {
    await removeLeftovers();
    const network = new NamespaceNetwork(`stor${process.pid}`, nodes);
    try {
      await network.#build();
    } catch (error) {
      await network.close();
      throw error;
    }
    return network;
  }

  /** The node's side of the network; `index` counts from 0. */
  node(index: number): Namespace {
    const node = this.nodes[index];
    if (!node) throw new Error(`the network has no node ${index}`);
    return node;
  }

  /** The address range of the whole network. */
  get range(): string {
    return '10.77.0.0/24';
  }

  /** Cuts the cable at the bridge: neither side is told. */
  async setCable(index: number, state: 'up' | 'down'): Promise<void> {
    await mustRun('ip', ['-n', this.#switch, 'link', 'set', this.node(index).name, state]);
  }

  /** Ends every process in the namespaces and removes them. Works twice. */
  async close(): Promise<void> {
    for (const { name } of [...this.nodes, this.client]) await removeNamespace(name);
    await removeNamespace(this.#switch);
  }

  get #switch(): string {
    return `${this.prefix}-sw`;
  }

  async #build(): Promise<void> {
    await mustRun('ip', ['netns', 'add', this.#switch]);
    const inSwitch = ['-n', this.#switch];
    await mustRun('ip', [...inSwitch, 'link', 'add', 'br0', 'type', 'bridge']);
    await mustRun('ip', [...inSwitch, 'link', 'set', 'br0', 'up']);
    for (const { name, address } of [this.client, ...this.nodes]) {
      await mustRun('ip', ['netns', 'add', name]);
      // The end at the bridge bears the name of the namespace at the other end.
      const veth = ['link', 'add', name, 'netns', this.#switch, 'type', 'veth'];
      await mustRun('ip', [...veth, 'peer', 'name', 'eth0', 'netns', name]);
      await mustRun('ip', [...inSwitch, 'link', 'set', name, 'master', 'br0', 'up']);
      await mustRun('ip', ['-n', name, 'address', 'add', `${address}/24`, 'dev', 'eth0']);
      await mustRun('ip', ['-n', name, 'link', 'set', 'eth0', 'up']);
      await mustRun('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
    }
  }
}

/** Namespaces of runs whose process is no more. */
async function removeLeftovers(): Promise<void> {
  // Its exit code says nothing here: another run may take its namespaces down meanwhile.
  const { stdout } = await runCommand('ip', ['netns', 'list']);
  for (const line of stdout.split('\n')) {
    const [name = ''] = line.split(' ');
    const owner = namePattern.exec(name)?.[1];
    if (owner !== undefined && !existsSync(`/proc/${owner}`)) await removeNamespace(name);
  }
}

/** A namespace that was deleted lives on while a process is in it, so those are ended first. */
async function removeNamespace(name: string): Promise<void> {
  const pids = async (): Promise<number[]> => {
    const { code, stdout } = await runCommand('ip', ['netns', 'pids', name]);
    return code === 0 ? stdout.split('\n').filter(Boolean).map(Number) : [];
  };
  await waitFor(
    `the processes in ${name} to end`,
    async () => {
      const left = await pids();
      for (const pid of left) killQuietly(pid);
      return left.length === 0;
    },
    { deadlineMs: killWaitMs },
  ).catch((error: unknown) => process.stderr.write(`${(error as Error).message}\n`));
  await runCommand('ip', ['netns', 'del', name]);
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it has ended meanwhile
  }
}
