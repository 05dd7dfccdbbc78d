import { openApiClient } from '@stor/protocol';
import type { ApiClient } from '@stor/protocol';
import { silentLogger } from '@stor/runtime';
import type { Logger } from '@stor/runtime';
import { FakeClock, SeededRandom } from '@stor/runtime/testing';
import { ControlPlane } from '../src/control-plane.ts';
import type { NodeIdentity } from '../src/agent/node-session.ts';
import { grpcTransport } from '../src/rpc/grpc-transport.ts';
import type { RpcServer } from '../src/rpc/rpc-transport.ts';
import { FakeAgent } from '../src/testing/fake-agent.ts';
import { MemoryCluster } from '../src/testing/memory-cluster.ts';
import type { MemoryClusterOptions } from '../src/testing/memory-cluster.ts';

export const clusterId = 'c-00000000000000c1';
export const nodeIds = [1, 2, 3, 4, 5].map((i) => `n-000000000000000${i}`);

export interface RigNode {
  id: string;
  name: string;
  identity: NodeIdentity;
  agent: FakeAgent;
  server: RpcServer;
  control: ControlPlane;
  api: string;
}

/** Control planes over one store in memory, talking real gRPC on loopback, in fake time. */
export class Rig {
  readonly clock = new FakeClock();
  readonly cluster: MemoryCluster;
  readonly nodes: RigNode[] = [];
  readonly #clients: ApiClient[] = [];
  readonly #logger: Logger;
  #instances = 0;

  constructor(logger: Logger = silentLogger, limits: MemoryClusterOptions['limits'] = {}) {
    this.#logger = logger;
    this.cluster = new MemoryCluster({
      limits,
      ids: [...nodeIds],
      clock: this.clock,
      random: new SeededRandom(7),
    });
  }

  static async open(
    count = 3,
    options: { logger?: Logger; limits?: MemoryClusterOptions['limits'] } = {},
  ): Promise<Rig> {
    const rig = new Rig(options.logger, options.limits);
    for (let i = 0; i < count; i++) {
      const agent = FakeAgent.withDisk(`d-000000000000000${i + 1}`);
      rig.nodes.push(await rig.start(i, agent));
    }
    await rig.until(() => rig.nodes.every((node) => node.control.readiness().ready));
    const client = rig.client();
    await rig.until(async () => (await client.listDisks({})).disks.length === count);
    return rig;
  }

  /** Starts a process of node `index` with this agent, on a free port. */
  async start(
    index: number,
    agent: FakeAgent,
    bootId = 'boot-1',
    cluster = clusterId,
    name = `n${index + 1}`,
  ): Promise<RigNode> {
    const id = nodeIds[index] ?? 'n-0';
    const server = await grpcTransport().createServer();
    const port = await server.listen('127.0.0.1', 0);
    const identity: NodeIdentity = {
      id,
      name,
      agentInstance: `instance-${++this.#instances}`,
      bootId: `${bootId}-${name}`,
      version: '0.1.0',
      addresses: {
        api: `127.0.0.1:${port}`,
        http: '127.0.0.1:1',
        peers: [`10.0.0.${index + 1}:7002`],
        nbd: [`10.0.0.${index + 1}:7003`],
        nbdUnix: [],
      },
    };
    const control = await ControlPlane.open({
      store: this.cluster.store(id),
      agent,
      node: identity,
      clusterId: cluster,
      clusterName: 'test',
      clock: this.clock,
      random: new SeededRandom(100 + this.#instances),
      logger: this.#logger,
      server,
    });
    agent.control = control;
    return { id, name, identity, agent, server, control, api: identity.addresses.api };
  }

  node(index: number): RigNode {
    const node = this.nodes[index];
    if (!node) throw new Error(`no node ${index}`);
    return node;
  }

  client(endpoints = this.nodes.map((node) => node.api)): ApiClient {
    const client = openApiClient({ endpoints, timeoutMs: 20_000 });
    this.#clients.push(client);
    return client;
  }

  /** Lets time pass until the condition holds. */
  async until(condition: () => boolean | Promise<boolean>): Promise<void> {
    for (let i = 0; i < 20_000; i++) {
      if (await condition()) return;
      await this.turn();
    }
    throw new Error('the condition did not come true');
  }

  /** A little of fake time, and a turn of the event loop for what is on the wire. */
  async turn(): Promise<void> {
    this.clock.advance(10);
    await new Promise((resolve) => setImmediate(resolve));
  }

  /** Lets time pass while a call is under way. */
  async during<T>(promise: Promise<T>): Promise<T> {
    const state = { done: false };
    const settle = (): void => {
      state.done = true;
    };
    promise.then(settle, settle);
    await this.until(() => state.done);
    return promise;
  }

  /**
   * The process dies: no answer to anybody, no renewal, nothing given back. What it had in memory
   * may still run here, as a paused process would; its store and agent do nothing more.
   */
  async kill(node: RigNode): Promise<void> {
    node.server.forceShutdown();
    this.#dead.add(node.identity.agentInstance);
    // closing revokes the lease, which a dead process cannot do: so its store is cut off first
    const store = this.cluster.store(node.id);
    const revoke = store.revokeLease.bind(store);
    store.revokeLease = () => Promise.resolve();
    await this.during(node.control.close());
    store.revokeLease = revoke;
  }

  readonly #dead = new Set<string>();

  /** False once the node's process was killed, until it is started again. */
  isAlive(nodeId: string): boolean {
    const node = this.nodes.find(({ id }) => id === nodeId);
    return node !== undefined && !this.#dead.has(node.identity.agentInstance);
  }

  async close(): Promise<void> {
    for (const client of this.#clients) await client.close();
    for (const node of this.nodes) {
      if (this.#dead.has(node.identity.agentInstance)) continue;
      await this.during(node.control.close());
      node.server.forceShutdown();
    }
    this.cluster.close();
  }
}
