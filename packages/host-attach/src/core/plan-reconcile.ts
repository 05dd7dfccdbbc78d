import type { DeviceState } from '../device/device-processes.ts';
import type { DeviceUser } from '../host-volumes.ts';
import type { DeviceRecord, HostState, MountRecord } from './host-records.ts';
import { mountAt, type MountEntry } from './mount-info.ts';

/** What is found of a device at the start of an agent. */
export interface DeviceFacts {
  /** null: there is none */
  process: DeviceState | null;
  /** of the block device that the record names, `7:3`; null: there is no such device */
  number: string | null;
}

export interface HostFacts {
  bootId: string;
  mounts: readonly MountEntry[];
  /** by the id of the device */
  devices: ReadonlyMap<string, DeviceFacts>;
}

/**
 * What is left to be done about a device after an order that was cut off:
 * - end: take it away; nobody waits for it
 * - leave, undo-mount: the caller of an order to mount has no answer, and may never ask again
 * - finish-unmount
 */
export type LeftAction =
  | { type: 'end' }
  | { type: 'leave'; user: DeviceUser }
  | { type: 'undo-mount' | 'finish-unmount'; mount: MountRecord };

export interface ReconcilePlan {
  /** the records as they are from now on */
  state: HostState;
  /** for the log */
  notes: string[];
}

/**
 * Compares what was written down with what is there. Of another boot nothing is left but publications:
 * what is mounted at a target now was mounted by somebody else. `leftAction` of each record says what is to be
 * done next.
 */
export function planReconcile(state: HostState, facts: HostFacts): ReconcilePlan {
  const plan: ReconcilePlan = { state: { ...state, bootId: facts.bootId, devices: [] }, notes: [] };
  const isSameBoot = state.bootId === facts.bootId;
  for (const record of state.devices) {
    if (isSameBoot) planDevice(record, facts, plan);
    else {
      plan.notes.push(`the device of volume ${record.volume} ended with the boot before`);
      plan.state.devices.push(endingOf({ ...record, mounts: [] }));
    }
  }
  return plan;
}

/** The next one; null: no order about this device was cut off. */
export function leftAction(record: DeviceRecord): LeftAction | null {
  if (record.phase !== 'ready') return { type: 'end' };
  if (record.pendingUser !== null) return { type: 'leave', user: record.pendingUser };
  for (const mount of record.mounts) {
    if (mount.phase === 'mounting') return { type: 'undo-mount', mount };
    if (mount.phase === 'unmounting') return { type: 'finish-unmount', mount };
  }
  return null;
}

/**
 * The record of a device that is taken away without asking anybody. A publication that CSI's controller
 * made is the controller's to end.
 */
export function endingOf(record: DeviceRecord): DeviceRecord {
  return { ...record, phase: 'stopping', force: true, keepPublication: keepsPublication(record) };
}

export function keepsPublication(record: DeviceRecord): boolean {
  return record.keepPublication || (!record.ownsPublication && record.users.includes('csi'));
}

function planDevice(record: DeviceRecord, facts: HostFacts, plan: ReconcilePlan): void {
  const { id, volume } = record;
  const { process = null, number = null } = facts.devices.get(id) ?? {};
  if (record.phase !== 'ready') {
    const isAttach = record.phase === 'starting';
    plan.notes.push(`an order to ${isAttach ? 'attach' : 'detach'} volume ${volume} was cut off`);
    plan.state.devices.push(isAttach ? endingOf(record) : record);
    return;
  }
  if (process === null) plan.notes.push(`volume ${volume}: its device ${record.path} is gone`);
  const staying = record.mounts.filter(({ target, phase }) => {
    const found = mountAt(facts.mounts, target);
    const isThere = found !== null && number !== null && found.device === number;
    // what a dead device leaves is ended by its users
    if (phase !== 'mounted' || isThere || process === null) return true;
    plan.notes.push(`volume ${volume} is not mounted at ${target} any more`);
    return false;
  });
  plan.state.devices.push({
    ...record,
    path: process?.path ?? record.path,
    sizeBytes: process?.sizeBytes ?? record.sizeBytes,
    mounts: staying,
  });
}
