import {
  checkLabels,
  checkSnapshotName,
  joinSnapshotName,
  maxSnapshotGroup,
  StorError,
} from '@stor/protocol';
import type { Snapshot, SnapshotDiff, SnapshotId, VolumeId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { AgentPeers } from '../agent/agent-peers.ts';
import { SnapshotRecords } from '../agent/snapshot-records.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { describeSnapshot } from '../core/volume/describe-snapshot.ts';
import { checkNotNeeded } from '../core/volume/rollback-rules.ts';
import { usedForAnother } from '../core/requests/change-rules.ts';
import { deletingSnapshot, isSelected } from '../core/volume/snapshot-rules.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import { readSnapshots, readState, readVolume } from '../resources/find.ts';
import { pause } from '../resources/pause.ts';
import type { SnapshotRecord } from '../resources/records.ts';
import type { PrimaryAccess, PrimaryHandle } from './primary-access.ts';
import { readSoon } from './read-soon.ts';
import type { SnapshotService } from './snapshot-service.ts';
import type { SnapshotTaker } from './snapshot-taker.ts';
import type { VolumeRollbacks } from './volume-rollbacks.ts';

/** How long a repeated order waits for the one that it repeats (ms), and how often it looks. */
const repeatWaitMs = 25_000;
const repeatLookMs = 200;
/** How often an order that was repeated begins anew after the one before it had failed. */
const maxRounds = 3;
/** Extents in one answer of a diff: some 100 KiB. */
const maxDiffExtents = 10_000;

export interface CreateSnapshotRequest {
  volume: string;
  volumes?: string[];
  selector: Record<string, string>;
  name: string;
  labels: Record<string, string>;
  requestId?: string;
}

/** Orders of users about snapshots. */
export class SnapshotOrders {
  readonly #store: ClusterStore;
  readonly #records: SnapshotRecords;
  readonly #access: PrimaryAccess;
  readonly #taker: SnapshotTaker;
  readonly #rollbacks: VolumeRollbacks;
  readonly #snapshots: SnapshotService;
  readonly #peers: AgentPeers;
  readonly #clock: Clock;
  readonly #logger: Logger;

  constructor(options: {
    store: ClusterStore;
    access: PrimaryAccess;
    taker: SnapshotTaker;
    rollbacks: VolumeRollbacks;
    snapshots: SnapshotService;
    peers: AgentPeers;
    clock: Clock;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#records = new SnapshotRecords(options.store);
    this.#access = options.access;
    this.#taker = options.taker;
    this.#rollbacks = options.rollbacks;
    this.#snapshots = options.snapshots;
    this.#peers = options.peers;
    this.#clock = options.clock;
    this.#logger = options.logger;
  }

  /** See StorApi.createSnapshot. */
  async create(request: CreateSnapshotRequest, signal?: AbortSignal): Promise<Snapshot[]> {
    const { name, labels, requestId = '' } = request;
    checkSnapshotName(name);
    checkLabels(labels);
    const state = await readSoon((options) => readState(this.#store, options));
    const volumes = chosenVolumes(state, request);
    const volumeIds = volumes.map(({ id }) => id);
    const wanted = { volumeIds, name, labels, requestId, isHidden: false };
    for (let round = 1; ; round++) {
      // one that was answered before must not need a primary once more
      const known = await this.#ofRequest(volumeIds, request, signal);
      if (known) return this.#describe(known);
      try {
        return await this.#describe(await this.#taker.take(wanted, signal));
      } catch (error) {
        const { code, details } = StorError.from(error);
        const isOwn = code === 'ALREADY_EXISTS' && requestId !== '';
        if (!isOwn || round === maxRounds || details['requestId'] !== requestId) throw error;
      }
    }
  }

  /** See StorApi.deleteSnapshot. */
  async delete(name: string): Promise<void> {
    const { volume, snapshot } = await this.#snapshots.find(name);
    const { id, volumeId, state } = snapshot.value;
    if (state === 'deleting') return;
    const full = joinSnapshotName(volume.value.metadata.name, snapshot.value.name);
    await this.#records.change(
      [{ id, volumeId }],
      (record) => deletingSnapshot(record, ''),
      (now) => {
        checkNotNeeded(now, id, full);
      },
    );
    this.#logger.info({ snapshot: full, id }, 'snapshot deleted');
  }

  /** See StorApi.diffSnapshots. */
  async diff(
    request: { volume: string; from: string; to: string; offset?: number },
    signal?: AbortSignal,
  ): Promise<SnapshotDiff> {
    const { volume, from, to, offset = 0 } = request;
    const found = await this.#snapshots.findVolume(volume);
    const { id, name } = found.value.metadata;
    const known = await readSnapshots(this.#store, id, { local: true });
    const [first, second] = [from, to].map((each) =>
      each === '' ? null : readySnapshotIn(known, name, each),
    );
    const { extents } = await this.#access.with(
      [id],
      (primaries) =>
        onlyOne(primaries).order({
          type: 'changes',
          from: first?.id ?? '',
          to: second?.id ?? '',
          offset,
          limit: maxDiffExtents + 1,
        }),
      signal,
    );
    const page = extents.slice(0, maxDiffExtents);
    return {
      sizeBytes: second?.sizeBytes ?? found.value.spec.sizeBytes,
      extents: page,
      nextOffset: extents[maxDiffExtents]?.offset ?? null,
    };
  }

  /** See StorApi.rollbackVolume. Returns the volume, and the name of the safety snapshot ('': none). */
  async rollback(
    request: { name: string; snapshot: string; force: boolean; safetySnapshot: boolean },
    signal?: AbortSignal,
  ): Promise<{ volumeId: VolumeId; safetySnapshot: string }> {
    const found = await this.#snapshots.findVolume(request.name);
    const { id: volumeId, name } = found.value.metadata;
    const known = await readSnapshots(this.#store, volumeId, { local: true });
    const { id: snapshotId } = readySnapshotIn(known, name, request.snapshot);
    return this.#access.with(
      [volumeId],
      async (primaries) => {
        const primary = onlyOne(primaries);
        const present = (await readVolume(this.#store, volumeId))?.value.status.rollback;
        const safety = present
          ? (known.get(present.safetyId)?.value ?? null)
          : await this.#prepareRollback(primary, { ...request, snapshotId }, signal);
        const wanted = { snapshotId, safetyId: safety?.id ?? '', force: request.force };
        let isRecorded = false;
        try {
          const volume = await this.#rollbacks.begin(primary, wanted);
          isRecorded = true;
          await this.#rollbacks.drive(primary, volume, signal);
        } catch (error) {
          const known = StorError.from(error);
          const isRefused = !isRecorded || known.details['untouched'] === 'true';
          // one that is under way goes on, and needs what was before it
          const own = present ? null : safety;
          throw isRefused
            ? await this.#refused(known, own)
            : goesOn(known, name, safety && joinSnapshotName(name, safety.name));
        }
        return { volumeId, safetySnapshot: safety ? joinSnapshotName(name, safety.name) : '' };
      },
      signal,
    );
  }

  /** What is done before anything changes; the safety snapshot, or null when none is wanted. */
  async #prepareRollback(
    primary: PrimaryHandle,
    request: { snapshotId: SnapshotId; force: boolean; safetySnapshot: boolean },
    signal: AbortSignal | undefined,
  ): Promise<SnapshotRecord | null> {
    // so that nothing is taken for an order that is refused; the primary itself looks again
    if (!request.force) await this.#checkUnused(primary);
    const { snapshotId } = request;
    await primary.orderWhenReady({ type: 'confirm', snapshotId }, signal);
    return request.safetySnapshot ? this.#safety(primary, signal) : null;
  }

  async #checkUnused({ volumeId, name, nodeId }: PrimaryHandle): Promise<void> {
    const live = await this.#peers.at(nodeId).liveVolumes([volumeId]);
    const connections = live.find((each) => each.volumeId === volumeId)?.connections ?? 0;
    if (connections > 0) throw inUse(name, connections);
  }

  async #safety(primary: PrimaryHandle, signal: AbortSignal | undefined): Promise<SnapshotRecord> {
    const stamp = new Date(this.#clock.wallMs()).toISOString().replace(/[-:]|\.\d+Z$/g, '');
    for (let n = 1; ; n++) {
      const name = `before-rollback-${stamp.replace('T', '-')}${n === 1 ? '' : `-${n}`}`;
      const wanted = {
        volumeIds: [primary.volumeId],
        name,
        labels: {},
        requestId: '',
        isHidden: false,
      };
      try {
        const [taken] = await this.#taker.takeWith([primary], wanted, signal);
        if (taken) return taken.value;
        throw new StorError('INTERNAL', 'no snapshot was taken');
      } catch (error) {
        // two rollbacks in one second
        if (StorError.from(error).code !== 'ALREADY_EXISTS' || n === maxRounds) throw error;
      }
    }
  }

  /** The same error; what was certainly refused leaves no safety snapshot behind. */
  async #refused(error: StorError, safety: SnapshotRecord | null): Promise<StorError> {
    if (safety) {
      const ref = [{ volumeId: safety.volumeId, id: safety.id }];
      await this.#records.change(ref, (record) => deletingSnapshot(record, 'not needed'));
    }
    return error;
  }

  /** The ready snapshots of an order that was given before with the same id; null: there are none. */
  async #ofRequest(
    volumeIds: readonly VolumeId[],
    { requestId = '', name }: CreateSnapshotRequest,
    signal: AbortSignal | undefined,
  ): Promise<Versioned<SnapshotRecord>[] | null> {
    if (requestId === '') return null;
    const deadlineMs = this.#clock.monotonicMs() + repeatWaitMs;
    for (;;) {
      const found: Versioned<SnapshotRecord>[] = [];
      for (const id of volumeIds) {
        const table = await readSnapshots(this.#store, id, { local: found.length > 0 });
        for (const each of table.values())
          if (each.value.requestId === requestId && each.value.state !== 'deleting')
            found.push(each);
      }
      if (found.length === 0) return null;
      if (found.some(({ value }) => value.name !== name)) throw usedForAnother(requestId);
      if (found.every(({ value }) => value.state === 'ready')) return found;
      if (this.#clock.monotonicMs() >= deadlineMs || signal?.aborted === true) {
        throw new StorError(
          'TIMEOUT',
          'the same order was given before and is still under way: try again in a moment',
        );
      }
      await pause(this.#clock, repeatLookMs, signal);
    }
  }

  async #describe(snapshots: readonly Versioned<SnapshotRecord>[]): Promise<Snapshot[]> {
    const { volumes } = await readState(this.#store, { local: true });
    const described = snapshots.map((snapshot) => {
      const { volumeId } = snapshot.value;
      const name = volumes.get(volumeId)?.value.metadata.name ?? volumeId;
      return describeSnapshot(snapshot, name, null);
    });
    return described.sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
  }
}

/** The volumes that are meant, by name or by labels; in the order of their ids. */
function chosenVolumes(
  state: ClusterState,
  { volume, volumes = [], selector }: CreateSnapshotRequest,
): { id: VolumeId; name: string }[] {
  const text = Object.entries(selector).map((pair) => pair.join('='));
  const ways = [volume !== '', volumes.length > 0, text.length > 0];
  if (ways.filter(Boolean).length !== 1) {
    throw new StorError(
      'INVALID_ARGUMENT',
      'name one volume or several, or give the labels of a group of volumes',
    );
  }
  if (volume !== '') return [namedVolume(state, volume)];
  const named = volumes.map((each) => namedVolume(state, each));
  const selected = [...state.volumes.values()].filter(({ value }) => isSelected(value, selector));
  const group =
    named.length > 0
      ? [...new Map(named.map((each) => [each.id, each])).values()]
      : selected.map(({ value }) => value.metadata);
  if (group.length === 0) {
    throw new StorError('NOT_FOUND', `no volume has the label ${text.join(',')}`);
  }
  if (group.length > maxSnapshotGroup) {
    const what = named.length > 0 ? 'are named' : `have the label ${text.join(',')}`;
    throw new StorError(
      'FAILED_PRECONDITION',
      `${group.length} volumes ${what}: a group has at most ${maxSnapshotGroup}, because all of them are paused together`,
    );
  }
  return group.sort((a, b) => (a.id < b.id ? -1 : 1));
}

function namedVolume(state: ClusterState, nameOrId: string): { id: VolumeId; name: string } {
  const id = state.names.get(nameOrId)?.value ?? nameOrId;
  const found = state.volumes.get(id)?.value.metadata;
  if (found) return found;
  throw new StorError(
    'NOT_FOUND',
    `there is no volume ${JSON.stringify(nameOrId.slice(0, 128))}: see "storctl volume ls"`,
  );
}

/** By name or id. NOT_FOUND; FAILED_PRECONDITION while it is being taken or deleted. */
export function readySnapshotIn(
  known: ReadonlyMap<SnapshotId, Versioned<SnapshotRecord>>,
  volume: string,
  nameOrId: string,
): SnapshotRecord {
  const all = [...known.values()].map(({ value }) => value).filter(({ isHidden }) => !isHidden);
  const named = all.filter(({ id, name }) => name === nameOrId || id === nameOrId);
  const found = named.find(({ state }) => state === 'ready') ?? named[0];
  if (!found) {
    throw new StorError(
      'NOT_FOUND',
      `volume ${volume} has no snapshot ${JSON.stringify(nameOrId.slice(0, 128))}: see "storctl snapshot ls ${volume}"`,
    );
  }
  if (found.state === 'ready') return found;
  const what = found.state === 'deleting' ? 'being deleted' : 'still being taken';
  throw new StorError(
    'FAILED_PRECONDITION',
    `snapshot ${joinSnapshotName(volume, found.name)} is ${what}`,
  );
}

function onlyOne(primaries: readonly PrimaryHandle[]): PrimaryHandle {
  const [primary] = primaries;
  if (!primary) throw new StorError('INTERNAL', 'there is no primary');
  return primary;
}

/** Something may have changed: the leader finishes what is recorded. */
function goesOn(error: StorError, name: string, safety: string | null): StorError {
  const kept = safety === null ? '' : `; what it was before is kept as ${safety}`;
  return new StorError(
    'UNAVAILABLE',
    `the rollback of volume ${name} is not finished: ${error.message}. It goes on by itself, and clients wait until it is over: see "storctl volume inspect ${name}"${kept}`,
    { cause: error },
  );
}

function inUse(name: string, connections: number): StorError {
  const clients = connections === 1 ? '1 client is' : `${connections} clients are`;
  return new StorError(
    'FAILED_PRECONDITION',
    `volume ${name} is in use: ${clients} connected, and would see other bytes under a mounted file system; disconnect them first, or give --force`,
  );
}
