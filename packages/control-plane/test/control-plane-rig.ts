import { loadServices, openApiClient } from '@stor/protocol';
import type { ApiClient, Services } from '@stor/protocol';
import { silentLogger } from '@stor/runtime';
import type { Clock, Logger } from '@stor/runtime';
import { FakeClock, MemoryNetwork, SeededRandom } from '@stor/runtime/testing';
import { ControlPlane } from '../src/control-plane.ts';
import type { NodeIdentity } from '../src/agent/node-session.ts';
import type { RpcServer, RpcTransport } from '../src/rpc/rpc-transport.ts';
import { FakeAgent } from '../src/testing/fake-agent.ts';
import { MemoryCluster } from '../src/testing/memory-cluster.ts';
import type { MemoryClusterOptions } from '../src/testing/memory-cluster.ts';
import { SocketRpcTransport } from '../src/testing/socket-rpc.ts';

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

/** Longer than the longest order of an operator lasts (ms, of fake time). */
const clientTimeoutMs = 90_000;
/** What the network of a rig takes to carry anything (ms); see `turnClock`. */
const latencyMs = 0.1;
/** The end of a connection crosses the network, and its other side is told in a turn of its own. */
const turnsToHearOfAnEnd = 3;

/**
 * The clock of a rig's network: what is sent arrives in the next turn of the event loop, whether
 * fake time runs or not, so that a test may wait for a call without letting time pass.
 */
function turnClock(clock: Clock): Clock {
  return {
    monotonicMs: () => clock.monotonicMs(),
    wallMs: () => clock.wallMs(),
    after: (delayMs, fn) => {
      if (delayMs > latencyMs) return clock.after(delayMs, fn);
      const turn = setImmediate(fn);
      return () => {
        clearImmediate(turn);
      };
    },
    endOfTurn: (fn) => {
      clock.endOfTurn(fn);
    },
  };
}

/**
 * Control planes over one store in memory, with calls between them, in fake time. Nothing here
 * waits for the system: over real sockets an answer needs time of the machine, and on a busy one
 * fake time has passed every limit before it comes.
 */
export class Rig {
  readonly clock = new FakeClock();
  readonly cluster: MemoryCluster;
  readonly nodes: RigNode[] = [];
  readonly #network = new MemoryNetwork({ clock: turnClock(this.clock), latencyMs });
  readonly #services: Services;
  readonly #clients: ApiClient[] = [];
  readonly #logger: Logger;
  #instances = 0;
  #requests = 0;

  constructor(
    services: Services,
    logger: Logger = silentLogger,
    limits: MemoryClusterOptions['limits'] = {},
  ) {
    this.#services = services;
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
    const rig = new Rig(await loadServices(), options.logger, options.limits);
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
    const rpc = this.transport(id);
    const server = await rpc.createServer();
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
      rpc,
    });
    agent.control = control;
    agent.everybody = () => this.nodes.map((node) => node.agent);
    return { id, name, identity, agent, server, control, api: identity.addresses.api };
  }

  node(index: number): RigNode {
    const node = this.nodes[index];
    if (!node) throw new Error(`no node ${index}`);
    return node;
  }

  client(endpoints = this.nodes.map((node) => node.api)): ApiClient {
    const rpc = this.transport('client');
    const client = openApiClient({
      endpoints,
      timeoutMs: clientTimeoutMs,
      host: {
        channel: (address) => Promise.resolve(rpc.channel(address, 'stor')),
        monotonicMs: () => this.clock.monotonicMs(),
        newRequestId: () => `request-${++this.#requests}`,
        after: (delayMs, fn) => this.clock.after(delayMs, fn),
      },
    });
    this.#clients.push(client);
    return client;
  }

  /** Calls from a process of this name to the nodes of the rig. */
  transport(name: string): RpcTransport {
    const network = this.#network.host(name);
    return new SocketRpcTransport({ network, clock: this.clock, services: this.#services });
  }

  /** Lets time pass until the condition holds. */
  async until(condition: () => boolean | Promise<boolean>): Promise<void> {
    for (let i = 0; i < 20_000; i++) {
      if (await condition()) return;
      await this.turn();
    }
    throw new Error('the condition did not come true');
  }

  /** A little of fake time, and a turn of the event loop, in which what is on the wire arrives. */
  async turn(): Promise<void> {
    this.clock.advance(10);
    await this.#eventLoopTurn();
  }

  async #eventLoopTurn(): Promise<void> {
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
    // the system that it ran on ends its connections: who had one hears of it before the test goes on
    for (let i = 0; i < turnsToHearOfAnEnd; i++) await this.#eventLoopTurn();
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
