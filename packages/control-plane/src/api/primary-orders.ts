import { StorError } from '@stor/protocol';
import type { Attachment, NodeId, Volume, VolumeId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { AgentPeers } from '../agent/agent-peers.ts';
import { VolumeRecords } from '../agent/volume-records.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { holderLives, wantAt, wantNowhere } from '../core/controllers/attachment-rules.ts';
import { cordonOf, cordoned } from '../core/node/node-intent.ts';
import { checkChangeable } from '../core/volume/change-volume.ts';
import { isUp, nodeName } from '../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import { findVolume, readHosts, readVolume } from '../resources/find.ts';
import { pause } from '../resources/pause.ts';
import type { StoredVolume } from '../resources/records.ts';
import { findNode } from './find-node.ts';
import type { VolumeService } from './volume-service.ts';

/** How long an order tries one node after the other (ms): an activation may take some seconds. */
const orderPatienceMs = 60_000;
/** How long a failed move waits to see who serves the volume then, and how often it looks (ms). */
const takeBackWaitMs = 10_000;
const takeBackLookMs = 250;

/** Orders of operators about who is primary: hand over, fence, recover. */
export class PrimaryOrders {
  readonly #store: ClusterStore;
  readonly #peers: AgentPeers;
  readonly #records: VolumeRecords;
  readonly #volumes: VolumeService;
  readonly #nodeId: NodeId;
  readonly #clock: Clock;
  readonly #logger: Logger;

  constructor(options: {
    store: ClusterStore;
    peers: AgentPeers;
    volumes: VolumeService;
    nodeId: NodeId;
    clock: Clock;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#peers = options.peers;
    this.#records = new VolumeRecords(options.store);
    this.#volumes = options.volumes;
    this.#nodeId = options.nodeId;
    this.#clock = options.clock;
    this.#logger = options.logger;
  }

  /**
   * See StorApi.movePrimary. When the new node cannot take it, the old one takes it back by itself;
   * the error says who serves the volume then.
   */
  async movePrimary(
    name: string,
    node: string,
    /** `epoch`: only while it is held at this one */
    { epoch, signal }: { epoch?: number; signal?: AbortSignal } = {},
  ): Promise<Volume> {
    const { volume, state } = await this.#find(name);
    const { metadata, status } = volume.value;
    const target = findNode(state, node).value;
    const holder = status.attachment;
    if (!holder) {
      throw precondition(
        `volume ${metadata.name} is attached nowhere at this moment, so there is nothing to move: to attach it, run "storctl volume attach ${metadata.name} --node ${target.name}"`,
      );
    }
    if (holder.nodeId === target.id) return this.#volumes.get(metadata.id);
    if (epoch !== undefined && holder.epoch !== epoch) {
      throw new StorError('CONFLICT', `volume ${metadata.name} was attached anew meanwhile`);
    }
    const cordon = cordonOf(target);
    if (cordon !== null) throw cordoned(target.name, cordon);
    const from = nodeName(state, holder.nodeId);
    if (!holderLives(holder, state.leases.get(holder.nodeId)?.value ?? null)) {
      throw precondition(
        `node ${from}, which held volume ${metadata.name}, is down: to attach it elsewhere, run "storctl volume attach ${metadata.name} --node ${target.name}"`,
      );
    }
    if (!isUp(state, target.id)) throw precondition(`node ${target.name} is down`);
    const request = { volumeId: metadata.id, epoch: holder.epoch };
    const answer = await this.#peers.at(holder.nodeId).handOver(request);
    if (answer === 'gone') return this.#movedMeanwhile(metadata.id, target.id);
    this.#logger.info({ volume: metadata.name, from, to: target.name }, 'handing over');
    // an operator's order goes first: a controller would else get the old node to take it again
    await this.#moveOrder(metadata.id, holder.nodeId, target.id);
    try {
      await this.#peers
        .at(target.id)
        .attachHere({ volumeId: metadata.id, mode: holder.mode, onlyIfWanted: false });
    } catch (error) {
      await this.#moveOrder(metadata.id, target.id, holder.nodeId).catch((undoing: unknown) => {
        // a controller then attaches it where it was to go, which the operator may see and undo
        const { message } = StorError.from(undoing);
        this.#logger.warn({ volume: metadata.name, error: message }, 'the order stays moved');
      });
      throw await this.#notTaken(volume, StorError.from(error), { from, to: target.name }, signal);
    }
    return this.#volumes.get(metadata.id);
  }

  /** If an operator wants the volume attached on `from`, it is wanted on `to` from now on. */
  async #moveOrder(id: VolumeId, from: NodeId, to: NodeId): Promise<void> {
    await this.#records.update(id, (record) =>
      record.spec.attachTo === from ? wantAt(record, to) : null,
    );
  }

  /** See StorApi.fenceVolume. Like a detach that asks nobody: it is wanted nowhere after it. */
  async fence(name: string): Promise<Volume> {
    const { volume } = await this.#find(name);
    const { id } = volume.value.metadata;
    // first of all: from then on no controller gets it attached again
    await this.#records.update(id, (record) =>
      record.spec.attachTo === undefined ? null : wantNowhere(record),
    );
    const { nodeId, epoch } = await this.#attachByForce(id, { isRecovery: false });
    // a client that has come meanwhile keeps the new primary
    await this.#peers.at(nodeId).releaseAttachment({ volumeId: id, epoch, ifIdle: true });
    return this.#volumes.get(id);
  }

  /** See StorApi.recoverVolume. The consent holds for this order's attempts only. */
  async recover(name: string, acceptUnflushedLoss: boolean): Promise<Volume> {
    const { volume } = await this.#find(name);
    const { id } = volume.value.metadata;
    const described = await this.#volumes.get(id);
    const { primary, serving } = described.status;
    // whoever serves it has nothing to give up, and its clients must not be cut off
    if (primary && serving !== '' && serving !== 'activating') return described;
    await this.#attachByForce(id, { isRecovery: true, acceptUnflushedLoss });
    return this.#volumes.get(id);
  }

  /**
   * Attaches for repair on one node after the other until one serves: first those that hold an
   * in-sync replica, this node before others. The present holder comes last when it is to be fenced,
   * and first in a recovery.
   */
  async #attachByForce(
    id: VolumeId,
    order: { isRecovery: boolean; acceptUnflushedLoss?: boolean },
  ): Promise<{ nodeId: NodeId; epoch: number }> {
    const deadlineMs = this.#clock.monotonicMs() + orderPatienceMs;
    const { volume, state } = await this.#find(id);
    const candidates = this.#candidates(volume.value, state, order.isRecovery);
    if (candidates.length === 0) throw nobodyUp(volume.value, state);
    const failures: string[] = [];
    for (const nodeId of candidates) {
      try {
        const { epoch } = await this.#peers.at(nodeId).attachHere({
          volumeId: id,
          mode: 'repair',
          onlyIfWanted: false,
          force: true,
          acceptUnflushedLoss: order.acceptUnflushedLoss ?? false,
        });
        return { nodeId, epoch };
      } catch (error) {
        const message = await this.#whyNot(id, nodeId, StorError.from(error));
        this.#logger.warn({ volume: volume.value.metadata.name, nodeId, message }, 'not attached');
        failures.push(`${nodeName(state, nodeId)}: ${message}`);
      }
      if (this.#clock.monotonicMs() >= deadlineMs) break;
    }
    throw new StorError(
      'UNAVAILABLE',
      `volume ${volume.value.metadata.name} could not be brought up: ${failures.join('; ')}${missingText(volume.value, state)}`,
    );
  }

  /** A node that did not answer in time may say why it does not serve yet. */
  async #whyNot(id: VolumeId, nodeId: NodeId, error: StorError): Promise<string> {
    if (error.code !== 'OUTCOME_UNKNOWN') return error.message;
    try {
      const volumes = await this.#peers.at(nodeId).liveVolumes([id]);
      const live = volumes.find(({ volumeId }) => volumeId === id);
      return live
        ? `still ${live.state}${live.reason === '' ? '' : `: ${live.reason}`}`
        : error.message;
    } catch {
      return error.message;
    }
  }

  #candidates(record: StoredVolume, state: ClusterState, isRecovery: boolean): NodeId[] {
    const holder = record.status.attachment?.nodeId;
    const rank = (nodeId: NodeId): number =>
      nodeId === holder ? (isRecovery ? 0 : 3) : nodeId === this.#nodeId ? 1 : 2;
    const up = record.status.segments.flatMap((segment) =>
      segment.replicas
        .filter((r) => r.state === 'ready' && isUp(state, r.nodeId))
        // the records may be older than the data, so a recovery asks the others too, last
        .filter((r) => isRecovery || segment.inSync.includes(r.id))
        .map(({ id, nodeId }) => ({ nodeId, isOut: !segment.inSync.includes(id) })),
    );
    up.sort((a, b) => Number(a.isOut) - Number(b.isOut) || rank(a.nodeId) - rank(b.nodeId));
    return [...new Set(up.map(({ nodeId }) => nodeId))];
  }

  /** Somebody else was faster than this order: fine when the volume is where it should be. */
  async #movedMeanwhile(id: VolumeId, targetId: NodeId): Promise<Volume> {
    const { volume, state } = await this.#find(id);
    const holder = volume.value.status.attachment;
    if (holder?.nodeId === targetId) return this.#volumes.get(id);
    const where = holder
      ? `is on node ${nodeName(state, holder.nodeId)} now`
      : 'is attached nowhere';
    throw new StorError(
      'CONFLICT',
      `volume ${volume.value.metadata.name} was detached or moved meanwhile and ${where}: look again`,
    );
  }

  /** The error of a move whose target failed, once it is known who serves the volume. */
  async #notTaken(
    volume: Versioned<StoredVolume>,
    error: StorError,
    nodes: { from: string; to: string },
    signal: AbortSignal | undefined,
  ): Promise<StorError> {
    const { id, name } = volume.value.metadata;
    const deadlineMs = this.#clock.monotonicMs() + takeBackWaitMs;
    let holder: Attachment | null = null;
    let state: ClusterState | null = null;
    while (this.#clock.monotonicMs() < deadlineMs && signal?.aborted !== true) {
      const now = await readVolume(this.#store, id);
      holder = now?.value.status.attachment ?? null;
      state = await readHosts(this.#store, { local: true });
      if (!now || holder) break;
      await pause(this.#clock, takeBackLookMs, signal);
    }
    const served =
      holder && state
        ? `node ${nodeName(state, holder.nodeId)} has it now`
        : `nobody has it now: a client that connects gets it attached again`;
    // what the other node may have done is looked up by now
    return new StorError(
      error.code === 'OUTCOME_UNKNOWN' ? 'UNAVAILABLE' : error.code,
      `volume ${name} was not moved from node ${nodes.from} to ${nodes.to}: ${error.message}; ${served}`,
      { cause: error, details: { ...error.details } },
    );
  }

  async #find(name: string): Promise<{ volume: Versioned<StoredVolume>; state: ClusterState }> {
    const volume = await findVolume(this.#store, name);
    checkChangeable(volume.value);
    return { volume, state: await readHosts(this.#store, { local: true }) };
  }
}

function precondition(message: string): StorError {
  return new StorError('FAILED_PRECONDITION', message);
}

/** Which in-sync replicas cannot be reached, as a clause; '' when all can. */
function missingText(record: StoredVolume, state: ClusterState): string {
  const missing = record.status.segments.flatMap((segment) =>
    segment.replicas
      .filter((r) => segment.inSync.includes(r.id) && !isUp(state, r.nodeId))
      .map((r) => nodeName(state, r.nodeId)),
  );
  if (missing.length === 0) return '';
  return `; in-sync replicas on nodes that are down: ${[...new Set(missing)].join(', ')}`;
}

function nobodyUp(record: StoredVolume, state: ClusterState): StorError {
  const { name } = record.metadata;
  return new StorError(
    'UNAVAILABLE',
    `no node with a replica of volume ${name} that could serve is up${missingText(record, state)}: start one of them`,
  );
}
