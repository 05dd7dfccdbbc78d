import {
  StorError,
  defaultPolicy,
  type AttachmentGrant,
  type VolumeQos,
  type VolumeSettings,
} from '@stor/protocol';
import type { BlockRequest, ChangedExtent, Extent, PrimaryVolume } from '@stor/replicator';
import { NoSnapshots } from '@stor/replicator/testing';
import { silentLogger, systemNetwork, type Clock, type Network } from '@stor/runtime';
import { NbdClient, type NbdTlsOptions } from 'nbd-client-js';
import type { Test } from 'tap';
import { VolumeExports } from '../src/exports/volume-exports.ts';
import type { MainMethods } from '../src/lane/lane-protocol.ts';
import { NbdServer } from '../src/nbd/nbd-server.ts';
import type { ConnectionTls } from '../src/nbd/nbd-connection.ts';
import { MemoryBlockDevice } from '../src/testing/memory-block-device.ts';

/** Time that runs faster, so that waits of seconds pass while real sockets are used. */
export class FastClock implements Clock {
  readonly #factor: number;

  constructor(factor: number) {
    this.#factor = factor;
  }

  monotonicMs(): number {
    return performance.now() * this.#factor;
  }
  wallMs(): number {
    return Date.now();
  }
  after(delayMs: number, fn: () => void): () => void {
    const timer = setTimeout(fn, delayMs / this.#factor);
    return () => clearTimeout(timer);
  }
  endOfTurn(fn: () => void): void {
    setImmediate(fn);
  }
}

type Started = { from: number; to: number; mutates: boolean };

/**
 * A primary over the memory that all primaries of a volume share. Overlapping requests go one after
 * another in the order in which they came, as in the real one; the rest finishes in any order.
 */
export class ModelPrimary extends NoSnapshots implements PrimaryVolume {
  readonly volumeId: string;
  readonly epoch: number;
  readonly sizeBytes: number;
  /** when set, nothing that is started goes on before it */
  gate: Promise<void> | null = null;
  stopped = false;
  readonly #memory: MemoryBlockDevice;
  readonly #started = new Set<Started>();
  readonly #listeners: ((reason: StorError) => void)[] = [];
  readonly #chance: () => number;
  #over: StorError | null = null;

  constructor(grant: AttachmentGrant, memory: MemoryBlockDevice, chance: () => number) {
    super();
    this.volumeId = grant.volumeId;
    this.epoch = grant.epoch;
    this.sizeBytes = memory.sizeBytes;
    this.#memory = memory;
    this.#chance = chance;
  }

  status(): ReturnType<PrimaryVolume['status']> {
    const state = this.#over ? 'stopped' : 'serving';
    const { volumeId, epoch } = this;
    return { volumeId, epoch, state, reason: '', stateAgeMs: 0, segments: [] };
  }

  /** the first half of what was asked has changed since `s-1`; there is no other snapshot */
  override async changedExtents(from?: string | null): Promise<ChangedExtent[]> {
    if (this.#over) throw this.#over;
    if (from !== 's-1') throw new StorError('NOT_FOUND', `no snapshot ${String(from)}`);
    return [{ offset: 0, length: this.sizeBytes / 2 }];
  }

  update(): void {}
  isScrubbing = false;
  scrub(): null {
    return null;
  }
  readInline(): boolean {
    return false;
  }
  read(request: BlockRequest): void {
    void this.#run(request, false, () => this.#memory.read(request));
  }
  write(request: BlockRequest): void {
    const { bytes, start, length } = request;
    const payload = Buffer.from((bytes ?? new Uint8Array(0)).subarray(start, start + length));
    const copy = { ...plain(request), bytes: payload, start: 0, retained: true };
    void this.#run(request, true, () => this.#memory.write(copy));
  }
  writeZeroes(request: BlockRequest): void {
    void this.#run(request, true, () => this.#memory.writeZeroes(request));
  }
  trim(request: BlockRequest): void {
    void this.#run(request, true, () => this.#memory.trim(request));
  }
  flush(request: BlockRequest): void {
    void this.#run(request, false, () => this.#memory.flush(request));
  }
  extents(
    offset: number,
    length: number,
    limit: number,
    done: (error: StorError | null, extents: Extent[]) => void,
  ): void {
    if (this.#over) done(this.#over, []);
    else this.#memory.extents(offset, length, limit, done);
  }

  get inFlight(): number {
    return this.#started.size;
  }

  async idle(): Promise<void> {
    while (this.#started.size > 0 && !this.#over) await turn();
  }

  async stop(): Promise<void> {
    this.stopped = true;
    await this.idle();
    this.end(new StorError('ABORTED', 'detached'));
  }

  /** At once: nothing that has not taken effect ever will (a newer epoch has fenced it). */
  end(reason: StorError): void {
    if (this.#over) return;
    this.#over = reason;
    for (const listener of this.#listeners) listener(reason);
  }

  onStopped(listener: (reason: StorError) => void): void {
    this.#listeners.push(listener);
  }

  async #run(request: BlockRequest, mutates: boolean, work: () => void): Promise<void> {
    if (this.#over || this.stopped) {
      request.done(this.#over ?? new StorError('UNAVAILABLE', 'stopping'));
      return;
    }
    const mine = { from: request.offset, to: request.offset + request.length, mutates };
    const older = [...this.#started].filter(
      (other) => other.from < mine.to && mine.from < other.to && (other.mutates || mutates),
    );
    this.#started.add(mine);
    while (older.some((other) => this.#started.has(other)) && !this.#over) await turn();
    for (let wait = Math.floor(this.#chance() * 4); wait > 0; wait--) await turn();
    if (this.gate) await this.gate;
    this.#started.delete(mine);
    if (this.#over) request.done(this.#over);
    else if (request.length === 0) request.done(null);
    else work();
  }
}

function plain(request: BlockRequest): BlockRequest {
  const { offset, length, fua, noHole } = request;
  const done = (error: StorError | null): void => request.done(error);
  return { offset, length, fua, noHole, bytes: null, start: 0, retained: true, done };
}

export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

interface Holder {
  node: ExportNode;
  epoch: number;
  primary: ModelPrimary | null;
}

/** One volume `db`, who holds it, and nodes that serve it over real sockets. */
export class ExportCluster {
  readonly nodes: ExportNode[] = [];
  readonly memory: MemoryBlockDevice;
  readonly released: { epoch: number; clean: boolean }[] = [];
  readonly primaries: ModelPrimary[] = [];
  shared = false;
  /** of the volume */
  qos: VolumeQos = {};
  /** what its record says */
  published: Pick<VolumeSettings, 'resourceVersion' | 'publications'> = { resourceVersion: 1 };
  /** how often a node has asked what the record says */
  infoCalls = 0;
  /** of the relays */
  network: Network = systemNetwork;
  /** of all nodes and their clients; null: in the clear */
  tls: { server: ConnectionTls; client: () => NbdTlsOptions } | null = null;
  /** nodes whose attach fails */
  readonly failing = new Set<ExportNode>();
  holder: Holder | null = null;
  epoch = 0;
  readonly clock: Clock;
  readonly #chance: () => number;

  constructor(options: { sizeBytes?: number; clock?: Clock; chance?: () => number } = {}) {
    this.memory = new MemoryBlockDevice(options.sizeBytes ?? 1 << 20);
    this.clock = options.clock ?? new FastClock(10);
    this.#chance = options.chance ?? Math.random;
  }

  static async start(
    t: Test,
    nodes: number,
    options: {
      sizeBytes?: number;
      clock?: Clock;
      chance?: () => number;
      tls?: ExportCluster['tls'];
    } = {},
  ): Promise<ExportCluster> {
    const cluster = new ExportCluster(options);
    cluster.tls = options.tls ?? null;
    for (let i = 1; i <= nodes; i++) {
      const node = await ExportNode.start(cluster, `n-${i}`);
      cluster.nodes.push(node);
      t.teardown(() => node.close());
    }
    return cluster;
  }

  node(number: number): ExportNode {
    const node = this.nodes[number - 1];
    if (!node) throw new Error(`no node ${number}`);
    return node;
  }

  get primary(): ModelPrimary {
    if (!this.holder?.primary) throw new Error('nobody is primary');
    return this.holder.primary;
  }

  async acquire(node: ExportNode): Promise<AttachmentGrant> {
    const { holder } = this;
    if (holder && holder.node !== node && holder.node.isUp) {
      const answer = await holder.node.exports.detach('v-1', holder.epoch, true);
      if (answer === 'busy') {
        throw new StorError('ATTACHED_ELSEWHERE', `held by ${holder.node.id}`);
      }
      return this.acquire(node);
    }
    await turn();
    if (this.holder !== holder) return this.acquire(node);
    return this.grant(node, 'auto');
  }

  grant(node: ExportNode, mode: AttachmentGrant['mode']): AttachmentGrant {
    this.epoch += 1;
    this.holder = { node, epoch: this.epoch, primary: null };
    return {
      volumeId: 'v-1',
      name: 'db',
      sizeBytes: this.memory.sizeBytes,
      epoch: this.epoch,
      mode,
      previousReleased: false,
      acceptUnflushedLoss: false,
      ...this.published,
      replicas: 1,
      policy: { ...defaultPolicy(1), shared: this.shared },
      qos: this.qos,
      segments: [],
    };
  }

  async attach(node: ExportNode, grant: AttachmentGrant): Promise<PrimaryVolume> {
    await turn();
    if (this.failing.has(node)) throw new StorError('UNAVAILABLE', 'no replica answers');
    // the fence: older primaries can change nothing any more (I2)
    for (const older of this.primaries) older.end(new StorError('STALE_EPOCH', 'superseded'));
    const primary = new ModelPrimary(grant, this.memory, this.#chance);
    this.primaries.push(primary);
    if (this.holder?.epoch === grant.epoch) this.holder.primary = primary;
    return primary;
  }

  /** As the control plane does it: the holder hands over, then the target is asked. */
  async movePrimary(to: ExportNode): Promise<void> {
    const { holder } = this;
    if (!holder) throw new Error('attached nowhere');
    if (holder.node === to) return;
    await holder.node.exports.handOver('v-1', holder.epoch);
    if (this.holder) return;
    await to.exports.attach(this.grant(to, 'auto'));
  }

  release(epoch: number, clean: boolean): void {
    this.released.push({ epoch, clean });
    if (this.holder?.epoch === epoch) this.holder = null;
  }
}

export class ExportNode {
  readonly id: string;
  readonly exports: VolumeExports;
  isUp = true;
  #server: NbdServer | null = null;

  private constructor(cluster: ExportCluster, id: string) {
    this.id = id;
    const control = {
      acquire: async () => {
        if (!this.isUp) throw new StorError('UNAVAILABLE', 'down');
        return cluster.acquire(this);
      },
      release: async (_id: string, epoch: number, { clean }: { clean: boolean }) => {
        if (this.isUp) cluster.release(epoch, clean);
      },
      volumeInfo: async () => {
        cluster.infoCalls += 1;
        return {
          ...cluster.published,
          attachedEpoch: cluster.holder?.epoch ?? null,
          name: 'db',
          volumeId: 'v-1',
          sizeBytes: cluster.memory.sizeBytes,
          shared: cluster.shared,
          replicas: 2,
          labels: { tier: 'db', env: 'test' },
        };
      },
      volumeNames: async () => ['db'],
      snapshotIds: async () => [{ id: 's-1', name: 'monday', sizeBytes: 2 ** 40 }],
      primaryAddress: async () => {
        const { holder } = cluster;
        return holder && { nodeId: holder.node.id, nbd: `127.0.0.1:${holder.node.port}` };
      },
    } as unknown as MainMethods;
    this.exports = new VolumeExports({
      host: {
        attach: (grant) => cluster.attach(this, grant),
        updateVolume: () => {},
        primary: () => null,
      },
      control,
      nodeId: id,
      agentInstance: `${id}-1`,
      network: { ...systemNetwork, connect: (...args) => cluster.network.connect(...args) },
      ...(cluster.tls ? { relayTls: cluster.tls.client } : {}),
      clock: cluster.clock,
      logger: silentLogger,
      autoDetachMs: 30_000,
      allocatedBytes: () => new Map(),
      snapshotSource: ({ replicaId }) => ({
        replicaId,
        open: async () => {
          throw new StorError('NOT_FOUND', 'no snapshots here');
        },
      }),
    });
  }

  static async start(cluster: ExportCluster, id: string): Promise<ExportNode> {
    const node = new ExportNode(cluster, id);
    node.#server = await NbdServer.listen({
      targets: [{ host: '127.0.0.1', port: 0 }],
      exports: node.exports,
      clock: cluster.clock,
      logger: silentLogger,
      limits: { closeDrainMs: 500 },
      ...(cluster.tls ? { tls: cluster.tls.server } : {}),
    });
    return node;
  }

  get port(): number {
    return this.#server?.port ?? 0;
  }
  get server(): NbdServer {
    if (!this.#server) throw new Error('not started');
    return this.#server;
  }

  /** kill -9: its sockets close, its primaries never speak again. */
  async kill(cluster: ExportCluster): Promise<void> {
    this.isUp = false;
    for (const primary of cluster.primaries) {
      if (primary === cluster.holder?.primary && cluster.holder.node === this) {
        primary.end(new StorError('ABORTED', 'killed'));
      }
    }
    await Promise.all(this.server.listeners.map((listener) => listener.close()));
  }

  client(t: Test, options: { maxInFlight?: number; tls?: NbdTlsOptions } = {}): Promise<NbdClient> {
    const connecting = NbdClient.connect({
      uri: `nbd://127.0.0.1:${this.port}/db`,
      ...options,
    });
    t.teardown(() => connecting.then((client) => client.close()).catch(() => {}));
    return connecting;
  }

  async close(): Promise<void> {
    await this.exports.close();
    await this.#server?.close();
  }
}
