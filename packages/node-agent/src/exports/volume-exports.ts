import type { LiveVolume, PrimaryAnswer, PrimaryOrder } from '@stor/control-plane';
import {
  StorError,
  formatByteSize,
  hasCode,
  parsePublishedExport,
  publishedExportName,
  type AttachmentGrant,
  type NodeId,
  type PublicationId,
  type ScrubOrder,
  type ScrubProgress,
  type VolumeId,
  type VolumeSettings,
} from '@stor/protocol';
import type { Network, SocketTarget } from '@stor/runtime';
import type { ClientIdentity, NbdTlsOptions } from 'nbd-client-js';
import { snapshotOfContext } from '../core/nbd/meta-contexts.ts';
import {
  provenName,
  type NbdExportLease,
  type NbdExports,
  type NbdPeer,
} from '../nbd/nbd-exports.ts';
import type { VolumeQosReport } from '../qos/lane-volume.ts';
import { ClientRegistry } from './client-registry.ts';
import { LaneCrossing } from './lane-crossing.ts';
import { Primaries, type PrimariesOptions, type PrimaryEntry } from './primaries.ts';
import { RelayDevice, type RelayStats } from './relay-device.ts';
import { ServedConnection } from './served-connection.ts';
import { SnapshotExports, type SnapshotExportsOptions } from './snapshot-exports.ts';
import { within } from './within.ts';

/** NBD LIST names at most this many exports: the reply is one option exchange of bounded size. */
const maxListedExports = 4_096;
/**
 * Before the name of a volume it means: only if you are primary or may become it, do not relay. No
 * volume has such a name.
 */
const directPrefix = 'primary:';
/**
 * Before a name, and before that prefix: from another lane of this node, which has found that the
 * volume is this lane's. It is not sent on to a third one.
 */
const lanePrefix = 'lane:';
/**
 * How long a client's newer connection waits for what was started over its older one (ms). That is
 * ahead of all that the newer one brings, so nothing depends on it; it keeps the two apart in time.
 */
const olderDrainMs = 2_000;

/** Labels may be many; a string of the protocol has at most 4096 bytes (UTF-16 code units). */
const maxDescriptionChars = 1_000;

const noSnapshots: ReadonlyMap<string, string> = new Map();

export interface VolumeExportsOptions extends PrimariesOptions {
  nodeId: NodeId;
  agentInstance: string;
  /** which lane of the node this is, and how many there are @default the only one */
  lane?: number;
  lanes?: number;
  network: Network;
  /** how this node connects to others over TLS, asked for each relay; absent: in the clear */
  relayTls?: () => NbdTlsOptions;
  /** how a replica's snapshot is read, here or on another node */
  snapshotSource: SnapshotExportsOptions['source'];
}

/**
 * The volumes as clients of this node see them: a first connection attaches by itself (`auto`), or is
 * relayed to the primary when the volume is shared or was handed over while it was used here.
 */
export class VolumeExports implements NbdExports {
  readonly relayStats: RelayStats = { connections: 0, readBytes: 0, writtenBytes: 0 };
  /** what came here for a volume of another lane of this node */
  readonly crossingStats: RelayStats = { connections: 0, readBytes: 0, writtenBytes: 0 };
  readonly #primaries: Primaries;
  readonly #snapshots: SnapshotExports;
  readonly #registry = new ClientRegistry();
  readonly #connections = new Set<ServedConnection>();
  readonly #crossings = new Set<LaneCrossing>();
  readonly #options: VolumeExportsOptions;

  constructor(options: VolumeExportsOptions) {
    this.#options = options;
    this.#primaries = new Primaries(options);
    this.#snapshots = new SnapshotExports({ ...options, source: options.snapshotSource });
  }

  /** volumes handed over to another node, since the lane started */
  get handovers(): number {
    return this.#primaries.handovers;
  }

  /** Several share the lane now: clients of volumes, work of the cluster. */
  get isLaneShared(): boolean {
    return this.#primaries.isLaneShared;
  }

  list(): Promise<string[]> {
    return this.#options.control.volumeNames(maxListedExports);
  }

  async info(exportName: string): Promise<{ name: string; sizeBytes: number; readOnly: boolean }> {
    const snapshot = SnapshotExports.nameOf(exportName);
    if (snapshot) {
      const sizeBytes = await this.#snapshots.sizeOf(snapshot);
      return { name: exportName, sizeBytes, readOnly: true };
    }
    const { name } = parseName(exportName);
    // what is served here needs no control plane, which may be without a quorum
    const sizeBytes = this.#primaries.sizeOf(name);
    if (sizeBytes !== null) return { name: exportName, sizeBytes, readOnly: false };
    const info = await this.#options.control.volumeInfo(name);
    return { name: exportName, sizeBytes: info.sizeBytes, readOnly: false };
  }

  async describe(exportName: string): Promise<string> {
    const snapshot = SnapshotExports.nameOf(exportName);
    if (snapshot) {
      const sizeBytes = await this.#snapshots.sizeOf(snapshot);
      return `snapshot of volume ${snapshot.volume}, ${formatByteSize(sizeBytes)}, read-only`;
    }
    return describeVolume(await this.#options.control.volumeInfo(parseName(exportName).name));
  }

  async snapshotsOf(exportName: string, asked: readonly string[] | 'all'): Promise<string[]> {
    const snapshot = SnapshotExports.nameOf(exportName);
    if (snapshot) await this.#snapshots.sizeOf(snapshot);
    const volume = snapshot?.volume ?? parseName(exportName).name;
    const names = [...(await this.#snapshots.idsOf(volume)).keys()];
    return asked === 'all' ? names : names.filter((each) => asked.includes(each));
  }

  async open(exportName: string, peer: NbdPeer): Promise<NbdExportLease> {
    const snapshot = SnapshotExports.nameOf(exportName);
    if (snapshot) return this.#snapshots.open(exportName, snapshot, peer);
    const { name, publication, isDirect, isCrossing } = parseName(exportName);
    // on the only lane nothing may come between the lines below
    if (!isCrossing && this.#mayCross(name)) {
      const elsewhere = await this.#laneElsewhere(name);
      if (elsewhere) return this.#cross(exportName, name, peer, elsewhere);
    }
    const { clock, logger } = this.#options;
    const { client } = peer;
    const asksForChanges = peer.contexts.some((context) => snapshotOfContext(context) !== null);
    const snapshots = asksForChanges ? await this.#snapshots.idsOf(name) : noSnapshots;
    const connection = new ServedConnection({
      name,
      publication,
      isDirect,
      peer,
      snapshots,
      relayIdentity: client ?? { id: this.#nameOf(peer), sequence: [] },
      clock,
      place: (each) => this.#place(each),
      leaveEntry: (entry, user) => {
        this.#primaries.leave(entry, user);
      },
    });
    this.#connections.add(connection);
    void connection.released.then(() => {
      this.#connections.delete(connection);
      if (client) this.#registry.leave(name, client, connection);
    });
    try {
      if (client) await this.#replaceOlder(name, client, connection);
      const lease = await connection.open();
      const who = { remote: peer.remote, as: provenName(peer) };
      logger.info({ volume: name, ...who, isDirect }, 'client connected');
      return lease;
    } catch (error) {
      connection.release();
      throw error;
    }
  }

  attach(grant: AttachmentGrant): Promise<void> {
    return this.#primaries.attach(grant);
  }

  detach(
    volumeId: VolumeId,
    epoch: number,
    ifIdle: boolean,
  ): Promise<'released' | 'busy' | 'gone'> {
    return this.#primaries.detach(volumeId, epoch, ifIdle);
  }

  handOver(volumeId: VolumeId, epoch: number): Promise<'released' | 'gone'> {
    return this.#primaries.handOver(volumeId, epoch);
  }

  /** See AgentPort.orderPrimary. */
  order(volumeId: VolumeId, epoch: number, order: PrimaryOrder): Promise<PrimaryAnswer> {
    return this.#primaries.order(volumeId, epoch, order);
  }

  /** See AgentPort.updateVolume. */
  updateVolume(settings: VolumeSettings): void {
    this.#options.host.updateVolume(settings);
    this.#primaries.updateVolume(settings);
  }

  /** See AgentPort.scrub. */
  scrub(order: ScrubOrder): ScrubProgress | null {
    return this.#primaries.scrub(order);
  }

  /** Who waits for whom, of the volumes that are served here. */
  spreadTenant(name: string, lanes: number): void {
    this.#primaries.spreadTenant(name, lanes);
  }

  qosReports(): VolumeQosReport[] {
    return this.#primaries.qosReports();
  }

  liveVolumes(volumeIds?: readonly VolumeId[]): LiveVolume[] {
    return this.#primaries.liveVolumes(volumeIds);
  }

  /** Gives everything back: connections end, primaries drain. */
  async close(): Promise<void> {
    const reason = new StorError('UNAVAILABLE', 'the agent is stopping');
    const primaries = this.#primaries.close();
    this.#snapshots.close();
    for (const connection of [...this.#connections]) connection.revoke(reason);
    for (const crossing of [...this.#crossings]) crossing.revoke(reason);
    await primaries;
  }

  /** Of a client that does not say who it is: different for each connection and lane. */
  #nameOf(peer: NbdPeer): string {
    const { nodeId, agentInstance } = this.#options;
    return `${nodeId}-${agentInstance}-${peer.id}`;
  }

  /** How NBD at that address is spoken to: what stays within the host needs no TLS. */
  #tlsTo(address: SocketTarget): NbdTlsOptions | null {
    return 'path' in address ? null : (this.#options.relayTls?.() ?? null);
  }

  #mayCross(name: string): boolean {
    const { lanes = 1 } = this.#options;
    return lanes > 1 && this.#primaries.sizeOf(name) === null;
  }

  /** The lane of this node that has the volume; null when it is this one. */
  async #laneElsewhere(name: string): Promise<SocketTarget | null> {
    const { lane = 0, control } = this.#options;
    const target = await control.route(name);
    return target.lane === lane ? null : target.address;
  }

  async #cross(
    exportName: string,
    name: string,
    peer: NbdPeer,
    address: SocketTarget,
  ): Promise<NbdExportLease> {
    const { network, clock, logger } = this.#options;
    const crossing: LaneCrossing = new LaneCrossing({
      ...{ address, name, peer, network, clock, stats: this.crossingStats },
      // whoever has this node's own address is this node
      tls: withoutVerifying(this.#tlsTo(address)),
      exportName: `${lanePrefix}${exportName}`,
      identity: peer.client ?? { id: this.#nameOf(peer), sequence: [1] },
      ended: () => {
        this.#crossings.delete(crossing);
      },
    });
    this.#crossings.add(crossing);
    try {
      const lease = await crossing.open();
      logger.info({ volume: name, remote: peer.remote, ...address }, 'sent on to another lane');
      return lease;
    } catch (error) {
      crossing.release();
      throw error;
    }
  }

  /** DESIGN "Clients": nothing of an older connection begins once a newer one is served. */
  async #replaceOlder(
    name: string,
    client: ClientIdentity,
    connection: ServedConnection,
  ): Promise<void> {
    const older = this.#registry.enter(name, client, connection);
    if (!older) return;
    await within(this.#options.clock, olderDrainMs, older.released, () => {});
  }

  /** See ServedConnectionOptions.place. */
  async #place(connection: ServedConnection): Promise<boolean> {
    const { name } = connection;
    if (await this.#placeHere(connection, await this.#primaries.present(name))) return true;
    if (connection.isDirect) this.#checkDirect(name);
    else {
      if (!connection.mayRelay) this.#joinAway(connection);
      if (!connection.mayRelay && this.#primaries.wasHandedOver(name)) {
        await this.#allowRelay(connection);
        connection.waitForTarget();
      }
      if (connection.mayRelay) {
        if (connection.wasServed) this.#checkDetached(name);
        const found = await this.#placeElsewhere(connection);
        if (found === 'placed') return true;
        if (found === 'busy' || (found === 'nobody' && connection.waitsForTarget)) return false;
      }
    }
    try {
      return await this.#placeHere(connection, await this.#primaries.acquire(name));
    } catch (error) {
      if (connection.isDirect || connection.mayRelay || !hasCode(error, 'ATTACHED_ELSEWHERE')) {
        throw error;
      }
      if (!(await this.#allowRelay(connection))) throw error;
      return false;
    }
  }

  async #placeHere(connection: ServedConnection, entry: PrimaryEntry | null): Promise<boolean> {
    if (!entry) return false;
    if (!(await this.#learnPublications(connection, entry))) return false;
    const refusal = entry.publications.refusal(connection.publication);
    if (refusal) throw connection.isDirect ? notAgain(refusal) : refusal;
    // from this turn on it is told when that changes
    connection.enter(entry);
    const primary = await this.#primaries.use(entry, connection, connection.stopped);
    // a handover may have sent it on before it was served
    if (!entry.users.has(connection)) return false;
    if (connection.stopped.aborted) {
      this.#primaries.leave(entry, connection);
      return false;
    }
    const { publication } = connection;
    const readOnly = entry.publications.isReadOnly(publication);
    connection.serveFrom(primary, entry.qos.device(primary), readOnly);
    return true;
  }

  /**
   * What this primary was told may be older than a publication of a moment ago. An ended one is never
   * taken for one that there is: who takes a volume over fences the primary that has not heard of it.
   * False: this one is to be fenced. Others may become primary at any time, and it learns nothing more.
   */
  async #learnPublications(
    { publication, name }: ServedConnection,
    entry: PrimaryEntry,
  ): Promise<boolean> {
    if (!entry.publications.refusal(publication)) return true;
    const info = await this.#options.control.volumeInfo(name);
    entry.publications.update(info, entry.users);
    const { epoch, resourceVersion } = entry.grant;
    if (info.attachedEpoch === epoch || info.resourceVersion < resourceVersion) return true;
    await this.#primaries.takenAway(entry);
    return false;
  }

  /** A connection that was served before must not attach again what was detached under it. */
  #checkDetached(name: string): void {
    if (!this.#primaries.wasDetached(name)) return;
    throw new StorError('NOT_FOUND', `volume ${name} was detached by order`);
  }

  /** For a relay of another node. NOT_FOUND is what its connection ends with. */
  #checkDirect(name: string): void {
    this.#checkDetached(name);
    if (this.#primaries.wasHandedOver(name)) {
      throw new StorError('ATTACHED_ELSEWHERE', `volume ${name} was handed over to another node`);
    }
  }

  /** Where other connections of this node are relayed to, one that comes later may follow. */
  #joinAway(connection: ServedConnection): void {
    for (const other of this.#connections) {
      if (other === connection || other.name !== connection.name || !other.isAway) continue;
      connection.volumeId = other.volumeId;
      connection.mayRelay = true;
      return;
    }
  }

  /** True when the volume may be relayed: it is shared, or has just been handed over from here. */
  async #allowRelay(connection: ServedConnection): Promise<boolean> {
    const { name } = connection;
    const { volumeId, shared } = await this.#options.control.volumeInfo(name);
    connection.volumeId = volumeId;
    connection.mayRelay = shared || this.#primaries.wasHandedOver(name);
    return connection.mayRelay;
  }

  /**
   * `busy`: there is a primary, which does not serve yet. `nobody`: there is none. `unreachable`:
   * this node should try to become it, which succeeds when the other one is dead.
   */
  async #placeElsewhere(
    connection: ServedConnection,
  ): Promise<'placed' | 'busy' | 'nobody' | 'unreachable'> {
    const first = connection.askFirst;
    connection.askFirst = null;
    if (first) {
      const outcome = await this.#relay(connection, first);
      if (outcome === 'placed') return outcome;
      if (outcome === 'elsewhere') connection.waitForTarget();
    }
    const where = await this.#options.control.primaryAddress(connection.volumeId ?? '');
    if (!where) return 'nobody';
    if (where.nodeId === this.#options.nodeId) return 'unreachable';
    const outcome = await this.#relay(connection, parseAddress(where.nbd));
    return outcome === 'elsewhere' ? 'busy' : outcome;
  }

  async #relay(
    connection: ServedConnection,
    address: { host: string; port: number },
  ): Promise<'placed' | 'busy' | 'elsewhere' | 'unreachable'> {
    const { network, clock, logger } = this.#options;
    const { name } = connection;
    let relay: RelayDevice;
    try {
      relay = await RelayDevice.connect({
        address,
        exportName: `${directPrefix}${exportOf(connection)}`,
        identity: connection.nextRelayIdentity(),
        snapshots: connection.snapshotNames,
        network,
        clock,
        stats: this.relayStats,
        tls: this.#tlsTo(address),
        signal: connection.stopped,
      });
    } catch (error) {
      const { code, message, details } = StorError.from(error);
      logger.info({ volume: name, ...address, code, error: message }, 'not relayed');
      if (code === 'NOT_FOUND' || code === 'ABORTED') throw error;
      if (code === 'ATTACHED_ELSEWHERE') return 'elsewhere';
      return details['answered'] === 'yes' ? 'busy' : 'unreachable';
    }
    connection.relayTo(relay, address);
    logger.info({ volume: name, ...address }, 'relayed to the primary');
    return 'placed';
  }
}

/** For example `20GiB, 3 replicas, env=prod tier=db`. */
function describeVolume(info: {
  sizeBytes: number;
  replicas: number;
  labels: Readonly<Record<string, string>>;
}): string {
  const { sizeBytes, replicas } = info;
  const labels = Object.entries(info.labels).map(([key, value]) => `${key}=${value}`);
  const parts = [
    formatByteSize(sizeBytes),
    `${replicas} replica${replicas === 1 ? '' : 's'}`,
    labels.sort().join(' '),
  ];
  const text = parts.filter((part) => part !== '').join(', ');
  return text.slice(0, maxDescriptionChars);
}

interface ExportName {
  /** of the volume */
  name: string;
  publication: PublicationId | null;
  isDirect: boolean;
  isCrossing: boolean;
}

function parseName(exportName: string): ExportName {
  const isCrossing = exportName.startsWith(lanePrefix);
  const uncrossed = isCrossing ? exportName.slice(lanePrefix.length) : exportName;
  const isDirect = uncrossed.startsWith(directPrefix);
  const rest = isDirect ? uncrossed.slice(directPrefix.length) : uncrossed;
  const published = parsePublishedExport(rest);
  const name = published?.volume ?? rest;
  return { name, publication: published?.publication ?? null, isDirect, isCrossing };
}

function exportOf({ name, publication }: ServedConnection): string {
  return publication === null ? name : publishedExportName(publication, name);
}

/** As a node that relays hears it: it must not ask again, for what it kept is too old by the next time. */
function notAgain(refusal: StorError): StorError {
  return new StorError('NOT_FOUND', refusal.message, { cause: refusal });
}

function parseAddress(address: string): { host: string; port: number } {
  const at = address.lastIndexOf(':');
  return { host: address.slice(0, at), port: Number(address.slice(at + 1)) };
}

function withoutVerifying(tls: NbdTlsOptions | null): NbdTlsOptions | null {
  return tls && { ...tls, verifyPeer: false };
}
