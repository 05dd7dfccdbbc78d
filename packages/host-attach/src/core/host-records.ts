import type { PublicationId, VolumeId } from '@stor/protocol';
import { z } from 'zod';
import { fileSystems, type DeviceUser, type HostDevice } from '../host-volumes.ts';

/** Version of `host/devices.json`; a newer one is refused, never overwritten. */
export const hostFormatVersion = 1;

const users = ['storctl', 'docker', 'csi'] as const satisfies readonly DeviceUser[];

const mountSchema = z.object({
  target: z.string(),
  fileSystem: z.enum(fileSystems),
  readOnly: z.boolean(),
  options: z.array(z.string()),
  user: z.enum(users),
  /** written before what it says is begun */
  phase: z.enum(['mounting', 'mounted', 'unmounting']),
  /** mounting: the order has made its user one of the device's */
  isNewUser: z.boolean(),
  /** unmounting: the user keeps the device */
  keepAttached: z.boolean(),
});

const deviceSchema = z.object({
  /** of the device process: that of the volume */
  id: z.string(),
  volumeId: z.string(),
  volume: z.string(),
  /** null: not known, as the order was cut off */
  publication: z.string().nullable(),
  /** it was made for this device, and not by somebody else before */
  ownsPublication: z.boolean(),
  readOnly: z.boolean(),
  sizeBytes: z.number(),
  /** what file systems on it were last made as large as; 0: nothing is known */
  grownBytes: z.number(),
  means: z.enum(['nbd-kernel', 'fuse-loop']),
  /** of the block device; '' before it is there */
  path: z.string(),
  users: z.array(z.enum(users)),
  /** of these, whom an order to mount has added that has not come to its mount yet */
  pendingUser: z.enum(users).nullable(),
  mounts: z.array(mountSchema),
  /** written before what it says is begun */
  phase: z.enum(['starting', 'ready', 'stopping']),
  /** stopping: as it was ordered */
  force: z.boolean(),
  keepPublication: z.boolean(),
});

export const hostStateSchema = z.object({
  formatVersion: z.number(),
  bootId: z.string(),
  devices: z.array(deviceSchema),
});

export type MountRecord = z.infer<typeof mountSchema>;
export type DeviceRecord = z.infer<typeof deviceSchema>;
/** What the host has, as it is kept on disk. */
export type HostState = z.infer<typeof hostStateSchema>;

export function newDeviceRecord(of: {
  id: string;
  volumeId: VolumeId;
  volume: string;
  publication: PublicationId | null;
  readOnly: boolean;
  sizeBytes: number;
  means: HostDevice['means'];
  user: DeviceUser;
}): DeviceRecord {
  const { user, ...rest } = of;
  return {
    ...rest,
    ownsPublication: of.publication === null,
    grownBytes: 0,
    path: '',
    users: [user],
    pendingUser: null,
    mounts: [],
    phase: 'starting',
    force: false,
    keepPublication: false,
  };
}

/** The record as the device's users see it. */
export function hostDeviceOf(record: DeviceRecord, failure: string | null): HostDevice {
  const { volumeId, volume, means, path, sizeBytes, readOnly } = record;
  return {
    volumeId,
    volume,
    publication: record.publication ?? '',
    means,
    path,
    sizeBytes,
    readOnly,
    users: [...record.users],
    mounts: record.mounts
      .filter(({ phase }) => phase !== 'mounting')
      .map(({ target, fileSystem, readOnly: isReadOnly, options, user }) => ({
        target,
        fileSystem,
        readOnly: isReadOnly,
        options: [...options],
        user,
      })),
    failure,
  };
}

export function withMount(record: DeviceRecord, mount: MountRecord): DeviceRecord {
  const others = record.mounts.filter(({ target }) => target !== mount.target);
  return { ...record, mounts: [...others, mount] };
}

export function withoutMount(record: DeviceRecord, target: string): DeviceRecord {
  return { ...record, mounts: record.mounts.filter((mount) => mount.target !== target) };
}

/** Is the device this user's, for good? */
export function hasUser(record: DeviceRecord, user: DeviceUser): boolean {
  return record.users.includes(user) && record.pendingUser !== user;
}

export function withUser(record: DeviceRecord, user: DeviceUser): DeviceRecord {
  const pendingUser = record.pendingUser === user ? null : record.pendingUser;
  const users = record.users.includes(user) ? record.users : [...record.users, user];
  return { ...record, users, pendingUser };
}

export function withoutUser(record: DeviceRecord, user: DeviceUser): DeviceRecord {
  const pendingUser = record.pendingUser === user ? null : record.pendingUser;
  return { ...record, users: record.users.filter((each) => each !== user), pendingUser };
}
