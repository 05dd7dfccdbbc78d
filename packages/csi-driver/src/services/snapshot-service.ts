import { hasCode } from '@stor/protocol';
import type { Snapshot } from '@stor/protocol';
import { checkId, checkName } from '../core/check-fields.ts';
import { csiError } from '../core/csi-error.ts';
import { canonicalText, isNamed, labelKeys, nameLabels, storName } from '../core/csi-names.ts';
import { pageOf } from '../core/list-page.ts';
import { readSnapshotLabels } from '../core/parameters.ts';
import { csiSnapshot, isShown } from '../core/volume-view.ts';
import { findSnapshot, findVolume, theSnapshot, theVolume } from '../find-object.ts';
import type {
  CreateSnapshotRequest,
  CsiSnapshot,
  ListSnapshotsRequest,
  SnapshotRequest,
} from '../messages.ts';
import { exclusively } from './controller-context.ts';
import type { ControllerContext } from './controller-context.ts';

/** Calls of the Controller service about snapshots; see csi.proto. */
export class SnapshotService {
  readonly #context: ControllerContext;

  constructor(context: ControllerContext) {
    this.#context = context;
  }

  async createSnapshot(request: CreateSnapshotRequest, signal: AbortSignal): Promise<object> {
    const { pending, digest } = this.#context;
    const volume = checkId('source_volume_id', request.sourceVolumeId);
    const name = checkName(request.name);
    const labels = { ...readSnapshotLabels(request.parameters), ...nameLabels(name) };
    const key = `snapshot ${storName(name, digest)}`;
    const snapshot = await exclusively(pending, [key], 'CreateSnapshot', async () => {
      const known = await this.#named(name, signal);
      return known ? this.#same(known, volume) : this.#take({ volume, name, labels }, signal);
    });
    return { snapshot };
  }

  /** What is gone already is fine. */
  async deleteSnapshot(request: SnapshotRequest, signal: AbortSignal): Promise<object> {
    const { api, pending } = this.#context;
    const name = checkId('snapshot_id', request.snapshotId);
    await exclusively(pending, [`snapshot ${name}`], 'DeleteSnapshot', async () => {
      if (!(await findSnapshot(api, name, signal))) return;
      await api.deleteSnapshot({ name }, { signal }).catch((error: unknown) => {
        if (!hasCode(error, 'NOT_FOUND')) throw error;
      });
    });
    return {};
  }

  async listSnapshots(request: ListSnapshotsRequest, signal: AbortSignal): Promise<object> {
    // before all snapshots are asked for
    pageOf([], () => '', request);
    const shown = (await this.#asked(request, signal)).filter(isShown);
    const { page, nextToken } = pageOf(shown, ({ metadata }) => metadata.id, request);
    return { entries: page.map((each) => ({ snapshot: csiSnapshot(each) })), nextToken };
  }

  async getSnapshot(request: SnapshotRequest, signal: AbortSignal): Promise<object> {
    const id = checkId('snapshot_id', request.snapshotId);
    return { snapshot: csiSnapshot(await theSnapshot(this.#context.api, id, signal)) };
  }

  /** Of what there is not, an empty list. */
  async #asked(
    { sourceVolumeId: volume, snapshotId }: ListSnapshotsRequest,
    signal: AbortSignal,
  ): Promise<Snapshot[]> {
    const { api } = this.#context;
    if (snapshotId !== '') {
      const found = await findSnapshot(api, snapshotId, signal);
      return found && (volume === '' || found.spec.volumeId === volume) ? [found] : [];
    }
    if (volume !== '' && !(await findVolume(api, volume, signal))) return [];
    try {
      return (await api.listSnapshots({ volume }, { signal })).snapshots;
    } catch (error) {
      if (hasCode(error, 'NOT_FOUND')) return [];
      throw error;
    }
  }

  /** That which was taken alone under this name, of whichever volume. */
  async #named(name: string, signal: AbortSignal): Promise<Snapshot | null> {
    const { snapshots } = await this.#context.api.listSnapshots({ volume: '' }, { signal });
    const found = snapshots.find(
      ({ metadata, status }) =>
        (status.state === 'ready' || status.state === 'creating') &&
        metadata.labels[labelKeys.group] === undefined &&
        isNamed(metadata.labels, name),
    );
    return found ?? null;
  }

  /** ALREADY_EXISTS when it is of another volume; ABORTED while it is being taken. */
  #same(snapshot: Snapshot, volume: string): CsiSnapshot {
    const { metadata, spec, status } = snapshot;
    if (spec.volumeId !== volume) {
      throw csiError(
        'ALREADY_EXISTS',
        `there is a snapshot of this name of volume ${spec.volumeId} (${metadata.id})`,
      );
    }
    if (status.state === 'ready') return csiSnapshot(snapshot);
    throw csiError('ABORTED', `snapshot ${metadata.name} is still being taken: ask again`);
  }

  async #take(
    { volume, name, labels }: { volume: string; name: string; labels: Record<string, string> },
    signal: AbortSignal,
  ): Promise<CsiSnapshot> {
    const { api, digest } = this.#context;
    await theVolume(api, volume, signal);
    const order = { volume, selector: {}, name: storName(name, digest), labels };
    const requestId = `csi:${digest(canonicalText(order))}`;
    const { snapshots } = await api.createSnapshot({ ...order, requestId }, { signal });
    const [taken] = snapshots;
    if (taken) return csiSnapshot(taken);
    throw csiError('ABORTED', `snapshot ${name} was deleted while it was taken: ask again`);
  }
}
