import { StorError, type VolumeId } from '@stor/protocol';
import { z } from 'zod';
import { maxMounts } from './limits.ts';

/** A volume that Docker has mounted on this host, and for whom. */
export interface MountedVolume {
  readonly volumeId: VolumeId;
  /** the name that Docker knows it by */
  readonly name: string;
  /** what Docker was told: where the containers' data lies */
  readonly mountpoint: string;
  /**
   * How often each caller has it mounted. A container keeps its id, and the same one is mounted once more by
   * `docker cp` while it runs: so this counts, and is never 0.
   */
  readonly mounts: ReadonlyMap<string, number>;
}

/** Never changed: a change makes another table, which holds once it is written. */
export type MountTable = readonly MountedVolume[];

export function mountedVolume(table: MountTable, volumeId: VolumeId): MountedVolume | null {
  return table.find((entry) => entry.volumeId === volumeId) ?? null;
}

/** The one that this caller has mounted, else any of that name. */
export function mountedByName(
  table: MountTable,
  name: string,
  callerId?: string,
): MountedVolume | null {
  // of one name there are two only when a volume was taken away by force and made again
  const named = table.filter((entry) => entry.name === name);
  const own = named.find(({ mounts }) => callerId !== undefined && mounts.has(callerId));
  return own ?? named.at(-1) ?? null;
}

/** With one mount more. Throws FAILED_PRECONDITION when there are too many. */
export function withMount(
  table: MountTable,
  volume: Omit<MountedVolume, 'mounts'>,
  callerId: string,
): MountTable {
  const known = mountedVolume(table, volume.volumeId);
  const count = known?.mounts.get(callerId) ?? 0;
  if (count === 0) checkRoom(table);
  const mounts = new Map(known?.mounts).set(callerId, count + 1);
  const others = table.filter((entry) => entry !== known);
  return [...others, { ...volume, mounts }];
}

/** With one mount less; one that nobody has is gone already. */
export function withoutMount(table: MountTable, volumeId: VolumeId, callerId: string): MountTable {
  const known = mountedVolume(table, volumeId);
  const count = known?.mounts.get(callerId) ?? 0;
  if (!known || count === 0) return table;
  const mounts = new Map(known.mounts);
  if (count === 1) mounts.delete(callerId);
  else mounts.set(callerId, count - 1);
  const others = table.filter((entry) => entry !== known);
  return mounts.size === 0 ? others : [...others, { ...known, mounts }];
}

/** Only the volumes that are still mounted. */
export function withOnly(table: MountTable, volumeIds: ReadonlySet<VolumeId>): MountTable {
  return table.filter(({ volumeId }) => volumeIds.has(volumeId));
}

function checkRoom(table: MountTable): void {
  const count = table.reduce((sum, { mounts }) => sum + mounts.size, 0);
  if (count < maxMounts) return;
  throw new StorError(
    'FAILED_PRECONDITION',
    `${count} mounts are counted on this host, and more are not: containers that are gone seem not to have unmounted`,
  );
}

const formatVersion = 1;

const fileSchema = z.object({
  formatVersion: z.literal(formatVersion),
  bootId: z.string(),
  volumes: z.array(
    z.object({
      volumeId: z.string(),
      name: z.string(),
      mountpoint: z.string(),
      mounts: z.array(z.tuple([z.string(), z.number().int().positive()])),
    }),
  ),
});

export function encodeMounts(table: MountTable, bootId: string): string {
  const volumes = table.map(({ mounts, ...volume }) => ({ ...volume, mounts: [...mounts] }));
  return `${JSON.stringify({ formatVersion, bootId, volumes }, null, 2)}\n`;
}

/**
 * What was written, if it is of this boot: after another one nothing is mounted and no container
 * runs. Throws FOREIGN_DATA.
 */
export function decodeMounts(text: string, bootId: string, path: string): MountTable {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw unreadable(path, (error as Error).message, error);
  }
  const version = (value as { formatVersion?: unknown } | null)?.formatVersion;
  if (typeof version === 'number' && version > formatVersion) {
    throw new StorError(
      'FOREIGN_DATA',
      `${path} has format version ${version}; this agent knows up to ${formatVersion}: start the newer agent that wrote it`,
    );
  }
  const parsed = fileSchema.safeParse(value);
  if (!parsed.success) throw unreadable(path, parsed.error.issues[0]?.message ?? '', parsed.error);
  if (parsed.data.bootId !== bootId) return [];
  return parsed.data.volumes.map(({ mounts, ...volume }) => ({
    ...volume,
    mounts: new Map(mounts),
  }));
}

function unreadable(path: string, why: string, cause: unknown): StorError {
  return new StorError(
    'FOREIGN_DATA',
    `${path} cannot be read (${why}): it counts which containers use which volumes. Stop the containers that use volumes of Stor, remove it and start the agent again`,
    { cause },
  );
}
