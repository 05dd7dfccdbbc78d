import { makeId, nodeLeaseMs, StorError } from '@stor/protocol';
import type { Attachment, NodeId, PublicationId, Volume } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import type { AgentPeers } from '../agent/agent-peers.ts';
import { inUse, notAnswering } from '../agent/attached-elsewhere.ts';
import { publishedElsewhere } from '../agent/used-as-device.ts';
import { HolderCalls } from '../agent/holder-calls.ts';
import {
  leaseCompare,
  maxConflicts,
  tooManyConflicts,
  VolumeRecords,
} from '../agent/volume-records.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { holderLives } from '../core/controllers/attachment-rules.ts';
import { cordonOf, cordoned } from '../core/node/node-intent.ts';
import {
  checkOwner,
  decidePublish,
  publicationsOf,
  unpublished,
} from '../core/volume/publication-rules.ts';
import type { Versioned } from '../resources/cluster-state.ts';
import { findVolume, readHosts, readVolume } from '../resources/find.ts';
import type { NodeLeaseRecord, StoredVolume } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { findNode } from './find-node.ts';
import type { VolumeService } from './volume-service.ts';

/** How long a holder that does not answer is waited for (ms): until its lease is over, and a second. */
const holderWaitMs = nodeLeaseMs + 1_000;

interface PublishOrder {
  name: string;
  node: string;
  readOnly?: boolean;
  owner?: string;
  keepDead?: boolean;
}

/** Which host may use a volume as a device (ADR 19): compare-and-set on the volume record. */
export class VolumePublications {
  readonly #store: ClusterStore;
  readonly #cache: StateCache;
  readonly #peers: AgentPeers;
  readonly #records: VolumeRecords;
  readonly #holders: HolderCalls;
  readonly #volumes: VolumeService;
  readonly #nodeId: NodeId;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #logger: Logger;

  constructor(options: {
    store: ClusterStore;
    cache: StateCache;
    peers: AgentPeers;
    volumes: VolumeService;
    nodeId: NodeId;
    clock: Clock;
    random: Random;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#cache = options.cache;
    this.#peers = options.peers;
    this.#records = new VolumeRecords(options.store);
    this.#holders = new HolderCalls(options);
    this.#volumes = options.volumes;
    this.#nodeId = options.nodeId;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#logger = options.logger;
  }

  /** See StorApi.publishVolume. */
  async publish(order: PublishOrder, signal: AbortSignal): Promise<Volume> {
    const { owner = '', readOnly = false, keepDead = false } = order;
    checkOwner(owner);
    const { id } = (await findVolume(this.#store, order.name)).value.metadata;
    const newId = makeId('u', this.#random.bytes(8));
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const volume = await this.#read(id, order.name);
      const state = await readHosts(this.#store, { local: true, known: this.#cache.state });
      const target = order.node === '' ? this.#nodeId : findNode(state, order.node).value.id;
      const leases = await this.#leases(volume.value);
      const decision = decidePublish(
        volume.value,
        { nodeId: target, readOnly, owner, keepDead, newId, nowWallMs: this.#clock.wallMs() },
        state,
        (nodeId) => (leases.get(nodeId) ?? null) !== null,
      );
      if (decision.type === 'present') return this.#volumes.get(id);
      if (decision.type === 'held') {
        throw publishedElsewhere(volume.value, decision.holder, this.#cache.state);
      }
      const node = state.nodes.get(target)?.value;
      const cordon = cordonOf(node);
      if (node && cordon !== null) throw cordoned(node.name, cordon);
      const { lost } = decision;
      // whoever is connected under what another host has lost is not asked: it is fenced
      const isTakeOver = lost.length > 0;
      const holder = volume.value.status.attachment;
      if (holder && !isTakeOver && publicationsOf(volume.value).length === 0) {
        await this.#clear(volume.value, holder, target, signal);
      }
      const now = isTakeOver ? withoutHolder(decision.record) : decision.record;
      const compare = lost.map(({ nodeId }) => leaseCompare(nodeId, null));
      // the attachment may have been given back meanwhile: then the record has changed
      if (await this.#records.write(volume, now, compare)) {
        const to = node?.name ?? target;
        const from = lost.map(({ nodeId }) => nodeId);
        this.#logger.info({ volume: order.name, to, owner, readOnly, from }, 'volume published');
        return this.#volumes.get(id);
      }
    }
    throw tooManyConflicts(order.name);
  }

  /** See StorApi.unpublishVolume. */
  async unpublish(
    order: { name: string; node: string; publication?: PublicationId; force?: boolean },
    signal: AbortSignal,
  ): Promise<Volume> {
    const { name, node, publication = '', force = false } = order;
    const { id } = (await findVolume(this.#store, name)).value.metadata;
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const volume = await this.#read(id, name);
      const state = await readHosts(this.#store, { local: true, known: this.#cache.state });
      const nodeId = node === '' ? null : findNode(state, node).value.id;
      const record = unpublished(volume.value, nodeId, publication);
      if (!record) return this.#volumes.get(id);
      const { attachment: holder } = volume.value.status;
      // of a shared volume that others go on using, the primary ends the connections of this one
      const isLast = publicationsOf(record).length === 0;
      const isAsked = isLast && !force;
      if (holder && isAsked && !(await this.#isReleased(volume.value, holder, signal))) {
        throw inUse(volume.value, holder, state);
      }
      // what its primary has accepted under the publication is over with its epoch
      if (await this.#records.write(volume, force ? withoutHolder(record) : record)) {
        this.#logger.info({ volume: name, node, force }, 'volume unpublished');
        if (holder && force) await this.#endAt(volume.value, holder, isLast, signal);
        return this.#volumes.get(id);
      }
    }
    throw tooManyConflicts(name);
  }

  /**
   * Nobody is connected who came without a publication. FAILED_PRECONDITION when somebody is; then, or
   * when nobody is left, the caller finds that out by the record's version.
   */
  async #clear(
    record: StoredVolume,
    holder: Attachment,
    target: NodeId,
    signal: AbortSignal,
  ): Promise<void> {
    const state = this.#cache.state;
    if (holder.mode === 'manual' && (await this.#lives(holder))) {
      // it stays attached where an operator wants it, and serves the host from there
      const isAway = holder.nodeId !== target && !record.spec.policy.shared;
      if (isAway || (await this.#isConnected(record, holder))) throw inUse(record, holder, state);
      return;
    }
    if (!(await this.#isReleased(record, holder, signal))) throw inUse(record, holder, state);
  }

  async #isConnected(record: StoredVolume, holder: Attachment): Promise<boolean> {
    const volumes = await this.#peers.at(holder.nodeId).liveVolumes([record.metadata.id]);
    return volumes.some(({ connections }) => connections > 0);
  }

  /** Asks the holder to let go if it has no client; one that is dead has none that counts. */
  async #isReleased(
    record: StoredVolume,
    holder: Attachment,
    signal: AbortSignal,
  ): Promise<boolean> {
    if (!(await this.#lives(holder))) return true;
    if (holder.mode === 'manual') return !(await this.#isConnected(record, holder));
    const deadlineMs = this.#clock.monotonicMs() + holderWaitMs;
    const answer = await this.#holders.release(record, holder, true, { deadlineMs, signal });
    if (answer === 'unreachable' && (await this.#lives(holder))) {
      throw notAnswering(record, holder, this.#cache.state);
    }
    return answer !== 'busy';
  }

  /**
   * The attachment was taken away: who served under it is told, so that the device's requests fail now and
   * not only when the next primary fences it. Those of other hosts go on there (`isLast` false).
   */
  async #endAt(
    record: StoredVolume,
    holder: Attachment,
    isLast: boolean,
    signal: AbortSignal,
  ): Promise<void> {
    if (!(await this.#lives(holder))) return;
    const { epoch, nodeId } = holder;
    const deadlineMs = this.#clock.monotonicMs() + holderWaitMs;
    if (isLast) {
      await this.#holders.release(record, holder, false, { deadlineMs, signal });
      return;
    }
    const volumeId = record.metadata.id;
    await this.#peers
      .at(nodeId)
      .handOver({ volumeId, epoch })
      .catch((error: unknown) => {
        const { message } = StorError.from(error);
        this.#logger.warn({ volume: record.metadata.name, nodeId, message }, 'not handed over');
      });
  }

  async #lives(holder: Attachment): Promise<boolean> {
    const lease = await this.#records.lease(holder.nodeId);
    return holderLives(holder, lease?.value ?? null);
  }

  /** Of the hosts that the volume is published to; null: the node is down. */
  async #leases(record: StoredVolume): Promise<Map<NodeId, Versioned<NodeLeaseRecord> | null>> {
    const leases = new Map<NodeId, Versioned<NodeLeaseRecord> | null>();
    for (const { nodeId } of publicationsOf(record)) {
      leases.set(nodeId, await this.#records.lease(nodeId));
    }
    return leases;
  }

  async #read(id: string, name: string): Promise<Versioned<StoredVolume>> {
    const volume = await readVolume(this.#store, id);
    if (volume) return volume;
    throw new StorError('NOT_FOUND', `volume ${name} was deleted meanwhile`);
  }
}

/** Attached nowhere, and whoever served it may still believe that it does: the next one fences it (I2). */
function withoutHolder(record: StoredVolume): StoredVolume {
  if (!record.status.attachment) return record;
  const status = { ...record.status, attachment: null, cleanRelease: false };
  return { ...record, status };
}
