import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openApiClient } from '@stor/protocol';
import type { ApiClient, ClusterStatus, Volume } from '@stor/protocol';
import { AgentProcess } from './agent-process.ts';
import { checkoutRoot } from './checkout.ts';
import { reservePorts } from '@stor/runtime/testing';
import { describeResult, runCommand, type CommandResult } from './run-command.ts';
import { runStorctlHere } from './run-storctl.ts';
import { waitFor } from './wait-for.ts';

export interface TestClusterOptions {
  nodes?: number;
  /** the cluster's folder; a new temporary one by default, removed by `close` */
  dir?: string;
  /** data folder of a node (by index), for a test that puts one on a small file system */
  dataDirOf?: (index: number) => string | undefined;
  /** lines added to every config.yaml */
  extraConfig?: string;
  /** nodes (by index) that get no disk */
  computeOnly?: number[];
  /** a network namespace for each node, by index; without it all are on loopback */
  netnsOf?: (index: number) => { name: string; address: string };
  /** data-path threads of every agent, at most three @default STOR_TEST_LANES, or one */
  lanes?: number;
  /** variables of every agent's environment, beside those of this process */
  agentEnv?: Record<string, string>;
}

const portsPerNode = 8;
/** to run the tests of whole clusters with more: half of their connections go to another lane's port */
const testLanes = Number(process.env['STOR_TEST_LANES'] ?? 1);
const loopback = '127.0.0.1';
/** In a namespace of its own every port is free: those of the defaults, the same on each node. */
const firstNetnsPort = 17_110;

/**
 * A cluster of real agents in a temporary folder, on loopback on free ports or in network namespaces:
 * never the checkout's own cluster. It ends only processes that it started itself.
 */
export class TestCluster {
  readonly dir: string;
  readonly clusterId: string;
  readonly agents: AgentProcess[];
  readonly lanes: number;
  readonly #ownsDir: boolean;
  #api: ApiClient | null = null;

  private constructor(parts: {
    dir: string;
    ownsDir: boolean;
    clusterId: string;
    agents: AgentProcess[];
    lanes: number;
  }) {
    this.dir = parts.dir;
    this.#ownsDir = parts.ownsDir;
    this.clusterId = parts.clusterId;
    this.agents = parts.agents;
    this.lanes = parts.lanes;
  }

  /** Lays out folders and configs; starts nothing. */
  static async create(options: TestClusterOptions = {}): Promise<TestCluster> {
    const dir = options.dir ?? mkdtempSync(join(tmpdir(), 'stor-test-'));
    const count = options.nodes ?? 3;
    const clusterId = `c-${randomBytes(8).toString('hex')}`;
    const { netnsOf } = options;
    const ports = netnsOf ? [] : await reservePorts(count * portsPerNode);
    const agents = Array.from({ length: count }, (_, index) => {
      const first = ports[index * portsPerNode] ?? firstNetnsPort;
      const netns = netnsOf?.(index);
      return new AgentProcess({
        name: `n${index + 1}`,
        nodeId: `n-${randomBytes(8).toString('hex')}`,
        dir: join(dir, `n${index + 1}`),
        host: netns?.address ?? loopback,
        apiPort: first,
        httpPort: first + 1,
        nbdPort: first + 3,
        ...(netns ? { netns: netns.name } : {}),
        ...(options.agentEnv ? { env: options.agentEnv } : {}),
      });
    });
    const { lanes = testLanes } = options;
    const ownsDir = options.dir === undefined;
    const cluster = new TestCluster({ dir, ownsDir, clusterId, agents, lanes });
    agents.forEach((agent, index) => {
      mkdirSync(join(agent.place.dir, 'run'), { recursive: true });
      const dataDir = options.dataDirOf?.(index) ?? agent.dataDir;
      writeFileSync(
        agent.configPath,
        cluster.configOf(index, dataDir) +
          (options.computeOnly?.includes(index) ? 'autoDisk: false\n' : '') +
          (options.extraConfig ?? ''),
      );
    });
    return cluster;
  }

  /** config.yaml of a node; a test may write it with other values. */
  configOf(index: number, dataDir: string): string {
    const { place } = this.agent(index);
    return [
      `clusterId: ${this.clusterId}`,
      'clusterName: test',
      `nodeId: ${place.nodeId}`,
      `nodeName: ${place.name}`,
      `dataDir: ${dataDir}`,
      `listen: { host: ${place.host}, api: ${place.apiPort}, http: ${place.httpPort}, peers: ${this.#peersPorts(place.apiPort)}, nbd: [${this.#nbdPorts(place.nbdPort)}] }`,
      ...(this.lanes > 1 ? [`lanes: ${this.lanes}`] : []),
      `nbdUnixDir: ${join(place.dir, 'run')}`,
      'members:',
      ...this.agents.map(
        ({ place: member }) =>
          `  - { id: ${member.nodeId}, name: ${member.name}, api: '${member.host}:${member.apiPort}' }`,
      ),
      ...(place.netns === undefined ? [] : ['insecureListen: true']),
      'logLevel: info',
      `pidFile: ${join(place.dir, 'agent.pid')}`,
      '',
    ].join('\n');
  }

  #nbdPorts(first: number): string {
    return Array.from({ length: this.lanes }, (_, lane) => first + lane).join(', ');
  }

  /** Of the node's eight ports the third is lane 0's; those of the others follow NBD's. */
  #peersPorts(api: number): string {
    if (this.lanes === 1) return String(api + 2);
    const ports = Array.from(
      { length: this.lanes },
      (_, lane) => api + (lane === 0 ? 2 : 5 + lane),
    );
    return `[${ports.join(', ')}]`;
  }

  agent(index: number): AgentProcess {
    const agent = this.agents[index];
    if (!agent) throw new Error(`no agent ${index}`);
    return agent;
  }

  indexOfNode(name: string): number {
    const index = this.agents.findIndex((agent) => agent.place.name === name);
    if (index < 0) throw new Error(`no node named ${name}`);
    return index;
  }

  get endpoints(): string {
    return this.agents.map(({ place }) => `${place.host}:${place.apiPort}`).join(',');
  }

  /** Starts every agent that does not run and waits until all are ready. */
  async start(): Promise<void> {
    for (const agent of this.agents) if (!agent.running) agent.start();
    await Promise.all(this.agents.map((agent) => agent.waitReady()));
  }

  /**
   * Waits until every node holds its lease and every disk is online, as the cluster sees them: a
   * starved agent may lose its lease again after it was ready, and is no place for replicas then.
   */
  async waitFit(deadlineMs = 60_000): Promise<void> {
    await waitFor(
      'every node to be fit for replicas',
      async () => {
        const { nodes, disks } = await this.status();
        const all = this.agents.length;
        if (nodes.up === all && disks.total >= all && disks.online === disks.total) return true;
        throw new Error(`${nodes.up} of ${all} nodes are up, ${disks.online} disks online`);
      },
      { deadlineMs, intervalMs: 200 },
    );
  }

  /** SIGTERM to all; every one must end with exit code 0. */
  async stop(): Promise<void> {
    const exits = await Promise.all(this.agents.map((agent) => agent.stop()));
    exits.forEach((exit, index) => {
      if (exit.code !== 0) {
        const agent = this.agent(index);
        throw new Error(
          `${agent.place.name} ended with ${JSON.stringify(exit)}\n${agent.logTail()}`,
        );
      }
    });
  }

  /** All agents at once. */
  async kill9All(): Promise<void> {
    await Promise.all(this.agents.map((agent) => agent.kill9()));
  }

  /** Runs a command line of storctl with the addresses of all nodes, in this process. */
  storctl(...args: string[]): Promise<CommandResult> {
    return runStorctlHere(args, { endpoints: this.endpoints, cwd: this.dir });
  }

  /** As `storctl`, in a process of its own; what it is made of is compiled already. */
  storctlProcess(...args: string[]): Promise<CommandResult> {
    const main = join(checkoutRoot(), 'packages/cli/dist/src/main.js');
    return runCommand(process.execPath, [main, ...args], {
      env: { STOR_ENDPOINTS: this.endpoints },
      cwd: this.dir,
    });
  }

  /** As storctl, and throws unless it ends with 0; the standard output without the last newline. */
  async must(...args: string[]): Promise<string> {
    const result = await this.storctl(...args);
    if (result.code !== 0) throw new Error(describeResult(result));
    return result.stdout.replace(/\n$/, '');
  }

  /**
   * What storctl calls. Conditions are waited for with it: a process for each look takes more of the
   * machine than the agents that are looked at.
   */
  get api(): ApiClient {
    this.#api ??= openApiClient({ endpoints: this.endpoints.split(',') });
    return this.#api;
  }

  inspect(volume: string): Promise<Volume> {
    return this.api.getVolume({ name: volume });
  }

  status(): Promise<ClusterStatus> {
    return this.api.getClusterStatus({});
  }

  /** Index of the Raft leader. */
  async leader(): Promise<number> {
    return waitFor('a Raft leader', async () => {
      const { leader } = await this.status();
      return leader ? { index: this.indexOfNode(leader.node) } : null;
    }).then(({ index }) => index);
  }

  /** Index of the node that has the volume attached, or null. */
  async primary(volume: string): Promise<number | null> {
    const { status } = await this.inspect(volume);
    return status.primary ? this.indexOfNode(status.primary.node) : null;
  }

  waitHealth(
    volume: string,
    health: string,
    deadlineMs = 60_000,
    signal?: AbortSignal,
  ): Promise<Volume> {
    return waitFor(
      `volume ${volume} to be ${health}`,
      async () => {
        const seen = await this.inspect(volume);
        if (seen.status.health === health) return seen;
        throw new Error(`${seen.status.health} (${seen.status.message})`);
      },
      { deadlineMs, intervalMs: 200, ...(signal ? { signal } : {}) },
    );
  }

  /** By the last lane's port: with one disk for each node, that is another lane than the volume's. */
  tcpUri(index: number, volume: string): string {
    const { place } = this.agent(index);
    return `nbd://${place.host}:${place.nbdPort + this.lanes - 1}/${volume}`;
  }

  unixUri(index: number, volume: string, lane = 0): string {
    const socket = join(this.agent(index).place.dir, 'run', `nbd-${lane}.sock`);
    return `nbd+unix:///${volume}?socket=${socket}`;
  }

  /** Ends what runs and removes the folder. Works after any failure, and twice. */
  async close(): Promise<void> {
    await Promise.all([this.#api?.close(), ...this.agents.map((agent) => agent.kill9())]);
    this.#api = null;
    if (this.#ownsDir) rmSync(this.dir, { recursive: true, force: true });
  }

  logTails(): string {
    return this.agents.map((agent) => agent.logTail()).join('\n');
  }
}
