import { hasCode, maxSnapshotGroup } from '@stor/protocol';
import type { Snapshot } from '@stor/protocol';
import { checkId, checkName, invalid, missing } from '../core/check-fields.ts';
import { csiError } from '../core/csi-error.ts';
import { canonicalText, isNamed, labelKeys, nameLabels, storName } from '../core/csi-names.ts';
import { asRpcs, groupCapabilities } from '../core/driver-info.ts';
import { readSnapshotLabels } from '../core/parameters.ts';
import { csiSnapshot, groupIdOf, timestampOf } from '../core/volume-view.ts';
import { theVolume } from '../find-object.ts';
import type { CreateGroupRequest, CsiGroupSnapshot, GroupRequest } from '../messages.ts';
import { exclusively } from './controller-context.ts';
import type { ControllerContext } from './controller-context.ts';

/** Snapshots of several volumes at one instant: all of them are held before one is taken. See csi.proto. */
export class GroupService {
  readonly #context: ControllerContext;

  constructor(context: ControllerContext) {
    this.#context = context;
  }

  async groupControllerGetCapabilities(): Promise<object> {
    return { capabilities: asRpcs(groupCapabilities) };
  }

  async createVolumeGroupSnapshot(
    request: CreateGroupRequest,
    signal: AbortSignal,
  ): Promise<object> {
    const { pending, digest } = this.#context;
    const name = checkName(request.name);
    const volumes = checkSources(request.sourceVolumeIds);
    const labels = {
      ...readSnapshotLabels(request.parameters),
      ...nameLabels(name),
      [labelKeys.group]: digest(canonicalText(volumes)).slice(0, 32),
    };
    const key = `group ${storName(name, digest)}`;
    const groupSnapshot = await exclusively(pending, [key], 'CreateVolumeGroupSnapshot', () =>
      this.#create({ name, volumes, labels }, signal),
    );
    return { groupSnapshot };
  }

  /** What is gone already is fine; members that were deleted one by one are. */
  async deleteVolumeGroupSnapshot(request: GroupRequest, signal: AbortSignal): Promise<object> {
    const { api, pending } = this.#context;
    const id = checkId('group_snapshot_id', request.groupSnapshotId);
    await exclusively(pending, [`group ${id}`], 'DeleteVolumeGroupSnapshot', async () => {
      const members = await this.#members(id, signal);
      checkMembers(members, request.snapshotIds);
      for (const { metadata } of members) {
        await api.deleteSnapshot({ name: metadata.id }, { signal }).catch((error: unknown) => {
          if (!hasCode(error, 'NOT_FOUND')) throw error;
        });
      }
    });
    return {};
  }

  async getVolumeGroupSnapshot(request: GroupRequest, signal: AbortSignal): Promise<object> {
    const id = checkId('group_snapshot_id', request.groupSnapshotId);
    const members = await this.#members(id, signal);
    if (members.length === 0) {
      throw csiError('NOT_FOUND', `there is no group snapshot ${JSON.stringify(id)}`);
    }
    checkMembers(members, request.snapshotIds);
    return { groupSnapshot: asGroup(members) };
  }

  async #create(
    wanted: { name: string; volumes: string[]; labels: Record<string, string> },
    signal: AbortSignal,
  ): Promise<CsiGroupSnapshot> {
    const { api, digest } = this.#context;
    const { name, volumes, labels } = wanted;
    const known = (await this.#all(signal)).filter(({ metadata }) =>
      isNamed(metadata.labels, name),
    );
    if (known.length > 0) return sameGroup(known, labels[labelKeys.group] ?? '', name);
    // each one by its id: a name that looks like an id is none
    for (const id of volumes) await theVolume(api, id, signal);
    const order = { volume: '', volumes, selector: {}, name: storName(name, digest), labels };
    const requestId = `csi:${digest(canonicalText(order))}`;
    const { snapshots } = await api.createSnapshot({ ...order, requestId }, { signal });
    return asGroup(snapshots);
  }

  async #members(id: string, signal: AbortSignal): Promise<Snapshot[]> {
    return (await this.#all(signal)).filter((each) => groupIdOf(each) === id);
  }

  /** Of all groups of this driver. */
  async #all(signal: AbortSignal): Promise<Snapshot[]> {
    const { snapshots } = await this.#context.api.listSnapshots({ volume: '' }, { signal });
    return snapshots.filter(
      ({ metadata, status }) =>
        (status.state === 'ready' || status.state === 'creating') &&
        metadata.labels[labelKeys.group] !== undefined,
    );
  }
}

/** In one order, each once. INVALID_ARGUMENT. */
function checkSources(ids: readonly string[]): string[] {
  if (ids.length === 0) throw missing('source_volume_ids');
  const sources = [...new Set(ids.map((id) => checkId('source_volume_ids', id)))].sort();
  if (sources.length <= maxSnapshotGroup) return sources;
  throw invalid(
    `${sources.length} volumes are too many: all of them are held together, so a group has at most ${maxSnapshotGroup}`,
  );
}

/** ALREADY_EXISTS when it is of other volumes; ABORTED while it is being taken. */
function sameGroup(known: Snapshot[], group: string, name: string): CsiGroupSnapshot {
  if (known.some(({ metadata }) => metadata.labels[labelKeys.group] !== group)) {
    throw csiError('ALREADY_EXISTS', `there is a group snapshot ${name} of other volumes`);
  }
  if (known.every(({ status }) => status.state === 'ready')) return asGroup(known);
  throw csiError('ABORTED', `group snapshot ${name} is still being taken: ask again`);
}

/** INVALID_ARGUMENT when a member is not among those that the caller knows. */
function checkMembers(members: readonly Snapshot[], known: readonly string[]): void {
  if (known.length === 0) return;
  const other = members.find(({ metadata }) => !known.includes(metadata.id));
  if (other) throw invalid(`snapshot_ids do not name ${other.metadata.id}, which is a member`);
}

function asGroup(members: readonly Snapshot[]): CsiGroupSnapshot {
  const [first] = members;
  if (!first) throw csiError('ABORTED', 'the group was deleted while it was taken: ask again');
  const takenAtMs = Math.max(...members.map(({ metadata }) => metadata.createdAtMs));
  return {
    groupSnapshotId: groupIdOf(first),
    snapshots: members.map(csiSnapshot),
    creationTime: timestampOf(takenAtMs),
    readyToUse: members.every(({ status }) => status.state === 'ready'),
  };
}
