import { hasCode, StorError } from '@stor/protocol';
import type { NodeId, VolumeId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { PrimaryAnswer, PrimaryOrder } from '../agent-port.ts';
import type { AgentPeers } from '../agent/agent-peers.ts';
import { VolumeRecords } from '../agent/volume-records.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { holderLives, wantedNode } from '../core/controllers/attachment-rules.ts';
import { checkChangeable } from '../core/volume/change-volume.ts';
import { isUp, nodeName } from '../resources/cluster-state.ts';
import type { ClusterState } from '../resources/cluster-state.ts';
import { readHosts, readVolume } from '../resources/find.ts';
import { pause } from '../resources/pause.ts';
import type { StoredVolume } from '../resources/records.ts';

/** How long a primary is looked for, or made (ms): a dead holder's lease must end first. */
const patienceMs = 25_000;
const lookAgainMs = 250;
/** A primary that cannot do yet what is asked gets so long to get ready (ms), asked so often. */
const notReadyWaitMs = 10_000;
const notReadyLookMs = 500;

/** The primary of a volume, for one order or several. */
export interface PrimaryHandle {
  readonly volumeId: VolumeId;
  readonly name: string;
  readonly nodeId: NodeId;
  readonly epoch: number;
  /** it was attached for this order, and is detached after it unless a client has come */
  readonly isOurs: boolean;
  order(order: PrimaryOrder): Promise<PrimaryAnswer>;
  /**
   * As `order`, for one that may be repeated: one that has only just begun, as after a crash, makes
   * replicas equal first, and is asked again for some seconds.
   */
  orderWhenReady(order: PrimaryOrder, signal?: AbortSignal): Promise<PrimaryAnswer>;
}

/** Orders to primaries, wherever they are; a volume that is attached nowhere is attached meanwhile. */
export class PrimaryAccess {
  readonly #store: ClusterStore;
  readonly #peers: AgentPeers;
  readonly #records: VolumeRecords;
  readonly #nodeId: NodeId;
  readonly #clock: Clock;
  readonly #logger: Logger;

  constructor(options: {
    store: ClusterStore;
    peers: AgentPeers;
    nodeId: NodeId;
    clock: Clock;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#peers = options.peers;
    this.#records = new VolumeRecords(options.store);
    this.#nodeId = options.nodeId;
    this.#clock = options.clock;
    this.#logger = options.logger;
  }

  /** Runs with the primaries of these volumes, all at the same time; gives back what it attached. */
  async with<T>(
    volumeIds: readonly VolumeId[],
    run: (primaries: PrimaryHandle[]) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    const found = await Promise.allSettled(volumeIds.map((id) => this.#find(id, signal)));
    const primaries = found.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
    try {
      for (const each of found) if (each.status === 'rejected') throw each.reason as Error;
      return await run(primaries);
    } finally {
      await Promise.all(primaries.map((primary) => this.#leave(primary)));
    }
  }

  /** FAILED_PRECONDITION, UNAVAILABLE, NOT_FOUND */
  async #find(id: VolumeId, signal: AbortSignal | undefined): Promise<PrimaryHandle> {
    const deadlineMs = this.#clock.monotonicMs() + patienceMs;
    const failures = new Map<NodeId, string>();
    for (;;) {
      if (signal?.aborted === true) throw new StorError('ABORTED', 'the order was given up');
      const volume = await readVolume(this.#store, id);
      if (!volume) throw new StorError('NOT_FOUND', `volume ${id} was deleted meanwhile`);
      const { metadata, status } = volume.value;
      checkChangeable(volume.value);
      const holder = status.attachment;
      const lease = holder ? await this.#records.lease(holder.nodeId) : null;
      if (holder && holderLives(holder, lease?.value ?? null))
        return this.#handle(volume.value, holder.nodeId, holder.epoch, false);
      const state = await readHosts(this.#store, { local: true });
      const nodeId = candidates(volume.value, state, this.#nodeId).find((n) => !failures.has(n));
      if (nodeId === undefined) throw cannotServe(volume.value, state, failures);
      try {
        const order = { volumeId: id, mode: 'auto' as const, onlyIfWanted: false };
        const { epoch } = await this.#peers.at(nodeId).attachHere(order);
        return this.#handle(volume.value, nodeId, epoch, true);
      } catch (error) {
        const { message } = StorError.from(error);
        this.#logger.warn({ volume: metadata.name, nodeId, message }, 'not attached for an order');
        // somebody else was faster: the record names it now
        if (!hasCode(error, 'ATTACHED_ELSEWHERE', 'CONFLICT')) failures.set(nodeId, message);
        if (this.#clock.monotonicMs() >= deadlineMs) throw error;
        await pause(this.#clock, lookAgainMs, signal);
      }
    }
  }

  #handle(record: StoredVolume, nodeId: NodeId, epoch: number, isOurs: boolean): PrimaryHandle {
    const { id: volumeId, name } = record.metadata;
    const order = async (asked: PrimaryOrder): Promise<PrimaryAnswer> => {
      try {
        return await this.#peers.at(nodeId).orderPrimary({ volumeId, epoch, order: asked });
      } catch (error) {
        // the data path knows volumes by their ids only
        const { code, message, details } = StorError.from(error);
        const named = message.replaceAll(volumeId, `volume ${name}`);
        throw new StorError(code, named, { cause: error, details });
      }
    };
    const orderWhenReady = (asked: PrimaryOrder, signal?: AbortSignal): Promise<PrimaryAnswer> =>
      this.#patiently(() => order(asked), signal);
    return { volumeId, name, nodeId, epoch, isOurs, order, orderWhenReady };
  }

  async #patiently<T>(ask: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    const deadlineMs = this.#clock.monotonicMs() + notReadyWaitMs;
    for (;;) {
      try {
        return await ask();
      } catch (error) {
        const { code, details } = StorError.from(error);
        const mayGetReady = code === 'UNAVAILABLE' && details['unreachable'] === undefined;
        const isOver = signal?.aborted === true || this.#clock.monotonicMs() >= deadlineMs;
        if (!mayGetReady || isOver) throw error;
        await pause(this.#clock, notReadyLookMs, signal);
      }
    }
  }

  async #leave({ volumeId, name, nodeId, epoch, isOurs }: PrimaryHandle): Promise<void> {
    if (!isOurs) return;
    try {
      await this.#peers.at(nodeId).releaseAttachment({ volumeId, epoch, ifIdle: true });
    } catch (error) {
      // it gives itself back when no client has come for a while
      const { message } = StorError.from(error);
      this.#logger.warn({ volume: name, nodeId, message }, 'an order left the volume attached');
    }
  }
}

/** Nodes that could serve it: where it is wanted first, then this node, then the others. */
function candidates(record: StoredVolume, state: ClusterState, selfId: NodeId): NodeId[] {
  const wanted = wantedNode(record);
  const sources = record.status.segments.flatMap(({ replicas, inSync }) =>
    replicas.filter((r) => r.state === 'ready' && inSync.includes(r.id)).map((r) => r.nodeId),
  );
  const all = [...(wanted === null ? [] : [wanted]), ...sources];
  const up = [...new Set(all)].filter((nodeId) => isUp(state, nodeId));
  const rank = (nodeId: NodeId): number => (nodeId === wanted ? 0 : nodeId === selfId ? 1 : 2);
  return up.sort((a, b) => rank(a) - rank(b));
}

function cannotServe(
  record: StoredVolume,
  state: ClusterState,
  failures: ReadonlyMap<NodeId, string>,
): StorError {
  const { name } = record.metadata;
  const why = [...failures].map(([nodeId, message]) => `${nodeName(state, nodeId)}: ${message}`);
  return new StorError(
    'UNAVAILABLE',
    why.length === 0
      ? `no node with an in-sync replica of volume ${name} is up: start one of them`
      : `volume ${name} could not be attached for this order: ${why.join('; ')}`,
  );
}
