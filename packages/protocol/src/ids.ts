/** Ids are opaque strings: 16 lower-case hex digits with a kind in front, for example `v-3f2a…`. */
export type ClusterId = string;
export type NodeId = string;
export type DiskId = string;
export type VolumeId = string;
export type ReplicaId = string;
export type SnapshotId = string;
export type PublicationId = string;

export const idPattern = /^[a-z]{1,2}-[0-9a-f]{16}$/;

/** Makes an id from 8 random bytes given by the caller: chance is an argument. */
export function makeId(
  kind: 'c' | 'n' | 'd' | 'v' | 'r' | 's' | 'g' | 'p' | 't' | 'u',
  random: Uint8Array,
): string {
  const hex = Array.from(random.subarray(0, 8), (b) => b.toString(16).padStart(2, '0')).join('');
  return `${kind}-${hex}`;
}
