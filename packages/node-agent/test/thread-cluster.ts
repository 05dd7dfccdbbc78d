import type { ClusterStore } from '@stor/control-plane';
import {
  MemoryCluster,
  MemoryClusterStore,
  MemoryKeyValueDisk,
  SocketRpcTransport,
} from '@stor/control-plane/testing';
import { openApiClient, type ApiClient, type Services } from '@stor/protocol';
import type { Files, Logger } from '@stor/runtime';
import {
  FakeClock,
  FaultyFiles,
  MemoryNetwork,
  SeededRandom,
  type MemoryHost,
} from '@stor/runtime/testing';
import { NbdClient } from 'nbd-client-js';
import type { AgentSettings } from '../src/config.ts';
import { formNode } from '../src/formation/form-node.ts';
import { Agent, type AgentConfig, type Platform } from '../src/index.ts';
import { startLaneInThread, type ThreadLaneHost } from '../src/testing/index.ts';

const clusterId = 'c-00000000000000c1';
const nbdPort = 13;
/** Lanes of each agent where a test does not say; to run all tests with more. */
const testLanes = Number(process.env['STOR_TEST_LANES'] ?? 1);
/** How long a sync of the Raft log and a step of a pooled file call take (ms). */
const logSyncMs = 0.5;
const fileStepMs = 0.05;
/** Time between two looks at what is waited for (ms). */
const stepMs = 2;

/** The turn of the event loop, taken before a test forbids it to the product. */
const realTurn = globalThis.setImmediate;

export interface ThreadNode {
  id: string;
  host: string;
  config: AgentConfig;
  files: FaultyFiles;
  logs: MemoryKeyValueDisk;
  sockets: MemoryHost | null;
  lanes: ThreadLaneHost[];
  agent: Agent | null;
  /** its stores in etcds */
  etcdStores: ClusterStore[];
}

/** Three whole agents in one thread, on models of everything below them, in fake time. */
export class ThreadCluster {
  readonly clock = new FakeClock();
  readonly network: MemoryNetwork;
  readonly nodes: ThreadNode[] = [];
  /** what the agents have logged, with the time */
  readonly log: string[] = [];
  /** told of each line, in the turn it is logged */
  onLog: (node: ThreadNode, message: string, fields: object) => void = () => {};
  /** what there is at each address of an etcd */
  readonly etcds = new Map<string, MemoryCluster>();
  readonly #random: SeededRandom;
  readonly #services: Services;
  readonly #seed: number;
  readonly #lanes: number;

  constructor(
    seed: number,
    services: Services,
    options: { computeOnly?: number[]; store?: string; lanes?: number } = {},
  ) {
    this.#lanes = options.lanes ?? testLanes;
    this.#random = new SeededRandom(seed);
    this.#services = services;
    this.network = new MemoryNetwork({ clock: this.clock });
    this.#seed = seed;
    const ids = [1, 2, 3].map((i) => `n-000000000000000${i}`);
    const members = ids.map((id, i) => ({ id, name: `n${i + 1}`, api: `10.0.0.${i + 1}:10` }));
    for (const [i, id] of ids.entries()) {
      this.#addNode(i + 1, {
        nodeId: id,
        members,
        autoDisk: !options.computeOnly?.includes(i),
        ...(options.store === undefined ? {} : { store: options.store }),
      });
    }
  }

  #addNode(number: number, config: Partial<AgentConfig> = {}): ThreadNode {
    const host = `10.0.0.${number}`;
    const files = new FaultyFiles({ seed: this.#seed + number - 1 });
    files.defer = (step) => void this.clock.after(fileStepMs, step);
    const logs = new MemoryKeyValueDisk({
      random: () => this.#random.next(),
      schedule: (run) => void this.clock.after(logSyncMs, run),
    });
    const node: ThreadNode = {
      id: config.nodeId ?? '',
      host,
      config: {
        clusterId,
        clusterName: 'thread',
        nodeId: '',
        nodeName: `n${number}`,
        dataDir: '/data',
        lanes: this.#lanes,
        listen: {
          ...{ host, api: 10, http: 11 },
          peers: Array.from({ length: this.#lanes }, (_, lane) => 112 + lane),
          nbd: Array.from({ length: this.#lanes }, (_, lane) => nbdPort + lane),
        },
        members: [],
        logLevel: 'info',
        autoDisk: true,
        insecureListen: true,
        ...config,
      },
      files,
      logs,
      etcdStores: [],
      sockets: null,
      lanes: [],
      agent: null,
    };
    this.nodes.push(node);
    return node;
  }

  node(index: number): ThreadNode {
    const node = this.nodes[index];
    if (!node) throw new Error(`no node ${index}`);
    return node;
  }

  async start(node: ThreadNode): Promise<void> {
    const sockets = this.network.host(node.host);
    node.sockets = sockets;
    const platform = this.#platform(node, sockets);
    const begin = async (): Promise<void> => {
      const agent = await Agent.start(node.config, this.#logger(node), platform);
      if (node.sockets !== sockets) return;
      node.agent = agent;
      agent.onMoved(() => {
        void agent.close().then(begin);
      });
    };
    await this.during(begin());
  }

  /** A node of its own folder, which asks n1 to let it in; started by its config afterwards. */
  async join(
    index: number,
    settings: Partial<AgentSettings>,
    wish: { token: string; discardStore?: boolean },
  ): Promise<ThreadNode> {
    const node = this.nodes[index - 1] ?? this.#addNode(index);
    const sockets = this.network.host(node.host);
    node.sockets = sockets;
    const { dataDir, listen, logLevel, autoDisk } = node.config;
    const base = { dataDir, listen, logLevel, autoDisk, clusterName: 'x', insecureListen: true };
    const { files, logs, rpc, clock, random } = this.#platform(node, sockets);
    const logger = this.#logger(node);
    node.config = await this.during(
      formNode(
        { ...base, nodeName: `n${index}`, ...settings },
        {
          bootstrap: false,
          join: {
            addresses: ['10.0.0.1:10'],
            token: wish.token,
            replace: false,
            discardStore: wish.discardStore ?? false,
          },
        },
        { files, logs, rpc, clock, random, logger, hostName: 'host' },
      ),
    );
    return node;
  }

  /** A client of the API, on a host of its own. @default of all nodes */
  api(nodes: readonly ThreadNode[] = this.nodes): ApiClient {
    const network = this.network.host('client');
    const rpc = new SocketRpcTransport({ network, clock: this.clock, services: this.#services });
    return openApiClient({
      endpoints: nodes.map(({ host }) => `${host}:10`),
      host: {
        channel: async (address) => rpc.channel(address, 'stor'),
        monotonicMs: () => this.clock.monotonicMs(),
        newRequestId: () => Buffer.from(this.#random.bytes(16)).toString('hex'),
        after: (delayMs, fn) => this.clock.after(delayMs, fn),
      },
    });
  }

  /** By the port of a lane, which may be another than the volume's. */
  connect(node: ThreadNode, exportName: string, lane = 0): Promise<NbdClient> {
    const network = this.network.host('client');
    return this.during(
      NbdClient.connect({
        ...{ host: node.host, port: nbdPort + lane, exportName, network },
        clock: this.clock,
      }),
    );
  }

  /** The process dies: its files, log and sockets do nothing more. */
  kill(node: ThreadNode): void {
    node.sockets?.kill();
    node.files.kill();
    node.logs.kill();
    for (const lane of node.lanes.splice(0)) lane.kill();
    for (const store of node.etcdStores.splice(0)) void store.close();
    node.sockets = null;
    node.agent = null;
  }

  /** Lets time pass until the condition holds. */
  async until(condition: () => boolean | Promise<boolean>): Promise<void> {
    for (let i = 0; i < 60_000; i++) {
      if (await condition()) return;
      await this.#turn();
    }
    throw new Error(`the condition did not come true; the last that was logged:\n${this.#tail()}`);
  }

  /** Lets time pass while something is under way. */
  async during<T>(promise: Promise<T>): Promise<T> {
    const state = { isDone: false };
    const done = (): void => {
      state.isDone = true;
    };
    promise.then(done, done);
    await this.until(() => state.isDone);
    return promise;
  }

  async close(): Promise<void> {
    const open = this.nodes.flatMap(({ agent }) => agent ?? []);
    await this.during(Promise.all(open.map((agent) => agent.close())));
  }

  async #turn(): Promise<void> {
    this.clock.advance(stepMs);
    await new Promise((resolve) => realTurn(resolve));
  }

  #platform(node: ThreadNode, sockets: MemoryHost): Platform {
    const { clock } = this;
    const files = withLogs(node.files.process(), node.logs);
    const logger = this.#logger(node);
    return {
      clock,
      random: this.#random,
      files,
      logs: node.logs,
      rpc: new SocketRpcTransport({ network: sockets, clock, services: this.#services }),
      etcd: this.#etcd(node),
      bootId: () => node.files.bootId,
      startLane: (options, control) => {
        const machine = { files, network: sockets };
        const lane = startLaneInThread(options, control, { clock, logger, machine });
        if (options.lane === 0) node.lanes.length = 0;
        node.lanes.push(lane);
        return lane;
      },
      listenHttp: null,
      writePidFile: () => () => Promise.resolve(),
    };
  }

  #etcd(node: ThreadNode): NonNullable<Platform['etcd']> {
    const open = (address: string): MemoryCluster => {
      const known = this.etcds.get(address);
      if (known) return known;
      const made = new MemoryCluster({ ids: [], clock: this.clock, random: this.#random });
      this.etcds.set(address, made);
      return made;
    };
    const kept = (store: MemoryClusterStore): MemoryClusterStore => {
      node.etcdStores.push(store);
      return store;
    };
    return {
      openStore: async ({ id, address }) =>
        Object.assign(kept(open(address).join(id)), {
          address,
          commitLatency: () => ({ bounds: [], counts: [0], sum: 0 }),
        }),
      openKeys: async ({ address }) => {
        const etcd = open(address);
        // it answers although none of its users is elected
        if (etcd.leaderId === null) etcd.setLeader('etcd');
        return Object.assign(kept(new MemoryClusterStore(etcd, 'guest')), { close: () => {} });
      },
    };
  }

  #tail(): string {
    return this.log.slice(-30).join('\n');
  }

  #logger(node: ThreadNode): Logger {
    const name = node.config.nodeName;
    const write = (level: string) => (fields: object, message: string) => {
      const time = (this.clock.monotonicMs() - 1_000_000).toFixed(2);
      this.log.push(`${time} ${name} ${level} ${message} ${JSON.stringify(fields)}`);
      this.onLog(node, message, fields);
    };
    const logger: Logger = {
      debug: write('debug'),
      info: write('info'),
      warn: write('warn'),
      error: write('error'),
      child: () => logger,
    };
    return logger;
  }
}

/** Raft logs lie in the directories of the files, and move with them. */
function withLogs(files: Files, logs: MemoryKeyValueDisk): Files {
  return new Proxy(files, {
    get(target, name) {
      const value = Reflect.get(target, name) as unknown;
      if (typeof value !== 'function') return value;
      if (name !== 'rename') return value.bind(target) as unknown;
      return (from: string, to: string): void => {
        target.rename(from, to);
        logs.rename(from, to);
      };
    },
  });
}
