import { fileSystems } from '@stor/host-attach';
import type { FileSystem } from '@stor/host-attach';
import type { AccessModeName, VolumeCapability } from '../messages.ts';
import { csiError } from './csi-error.ts';
import { byteLength, invalid, maxMapBytes, missing } from './check-fields.ts';

/** What one workload, or one host, wants to do with a volume; checked. */
export interface Access {
  kind: 'block' | 'mount';
  mode: Exclude<AccessModeName, 'UNKNOWN'>;
  /** nobody may write through it */
  readOnly: boolean;
  /** several hosts at a time */
  multiNode: boolean;
  /** several targets on one host */
  multiTarget: boolean;
  /** null: none is named */
  fileSystem: FileSystem | null;
  mountFlags: readonly string[];
  /** group that may write; null: nobody asks for one */
  gid: number | null;
}

const modes: Readonly<
  Record<Exclude<AccessModeName, 'UNKNOWN'>, Pick<Access, 'readOnly' | 'multiNode' | 'multiTarget'>>
> = {
  SINGLE_NODE_WRITER: { readOnly: false, multiNode: false, multiTarget: false },
  SINGLE_NODE_READER_ONLY: { readOnly: true, multiNode: false, multiTarget: false },
  MULTI_NODE_READER_ONLY: { readOnly: true, multiNode: true, multiTarget: true },
  MULTI_NODE_SINGLE_WRITER: { readOnly: false, multiNode: true, multiTarget: true },
  MULTI_NODE_MULTI_WRITER: { readOnly: false, multiNode: true, multiTarget: true },
  SINGLE_NODE_SINGLE_WRITER: { readOnly: false, multiNode: false, multiTarget: false },
  SINGLE_NODE_MULTI_WRITER: { readOnly: false, multiNode: false, multiTarget: true },
};

/** The largest number that the kernel takes for a group, but one: -1 means "as it is". */
const maxGid = 2 ** 32 - 2;

/** INVALID_ARGUMENT: a field is missing, unknown or makes no sense. It says nothing of any volume. */
export function readAccess(capability: VolumeCapability | null | undefined): Access {
  if (!capability) throw missing('volume_capability');
  const { block, mount, accessMode } = capability;
  if (!block && !mount) throw missing('access_type (block or mount) of volume_capability');
  const name = accessMode?.mode ?? 'UNKNOWN';
  if (name === 'UNKNOWN') throw missing('access_mode of volume_capability');
  const mode = modes[name as Access['mode']] as (typeof modes)[Access['mode']] | undefined;
  if (typeof name === 'number' || !mode) throw invalid(`access mode ${name} is not known`);
  const access = { kind: mount ? ('mount' as const) : ('block' as const), mode: name, ...mode };
  if (!mount) return { ...access, fileSystem: null, mountFlags: [], gid: null };
  const { fsType, mountFlags, volumeMountGroup } = mount;
  return {
    ...access,
    fileSystem: fsType === '' ? null : readFileSystem('fs_type', fsType),
    mountFlags: checkMountFlags(mountFlags),
    gid: volumeMountGroup === '' ? null : readGid(volumeMountGroup),
  };
}

/** INVALID_ARGUMENT when there is none at all, or one is wrong. */
export function readAccesses(capabilities: readonly VolumeCapability[]): Access[] {
  if (capabilities.length === 0) throw missing('volume_capabilities');
  return capabilities.map(readAccess);
}

export function readFileSystem(field: string, name: string): FileSystem {
  const found = fileSystems.find((each) => each === name);
  if (found) return found;
  throw invalid(
    `${field} ${JSON.stringify(name.slice(0, 64))} is not supported: use ${fileSystems.join(' or ')}`,
  );
}

function checkMountFlags(flags: readonly string[]): readonly string[] {
  const bytes = flags.reduce((sum, flag) => sum + byteLength(flag), 0);
  // they may hold secrets, so they are not repeated here
  if (bytes > maxMapBytes) throw invalid(`mount_flags have more than ${maxMapBytes} bytes`);
  return flags;
}

function readGid(text: string): number {
  const gid = /^[0-9]{1,10}$/.test(text) ? Number(text) : NaN;
  if (gid <= maxGid) return gid;
  throw invalid(
    `volume_mount_group ${JSON.stringify(text.slice(0, 64))} is not valid: it is the number of a group`,
  );
}

/**
 * Why no volume can be used like this; '' when one can. A file system belongs to one host: none of those
 * that are made here knows of other hosts. And with one writer among several hosts, nobody would see to it
 * that it stays one.
 */
export function unsupported({ kind, mode, multiNode }: Access): string {
  if (mode === 'MULTI_NODE_SINGLE_WRITER') {
    return 'MULTI_NODE_SINGLE_WRITER is not offered: several hosts may use a volume only as a block device, all of them in the same way';
  }
  if (multiNode && kind === 'mount') {
    return `${mode} is offered for block devices only: a file system is used by one host at a time`;
  }
  return '';
}

/** INVALID_ARGUMENT for what no volume can do. */
export function checkSupported(access: Access): void {
  const problem = unsupported(access);
  if (problem !== '') throw invalid(problem);
}

/** Why this volume, shared or not, cannot be used like this; '' when it can. */
export function unsupportedBy(volume: { shared: boolean }, access: Access): string {
  const problem = unsupported(access);
  if (problem !== '') return problem;
  if (access.multiNode && !volume.shared) {
    return `${access.mode} needs a volume that was created for several hosts`;
  }
  if (volume.shared && access.kind === 'mount') {
    return 'the volume was created for several hosts, so it is used as a block device only';
  }
  return '';
}

/** FAILED_PRECONDITION when what is asked for is more than the volume can do. */
export function checkWithin(volume: { shared: boolean }, access: Access): void {
  const problem = unsupportedBy(volume, access);
  if (problem !== '') throw csiError('FAILED_PRECONDITION', problem);
}

/** A volume for these capabilities is shared between hosts. INVALID_ARGUMENT when it would have to be both. */
export function needsShared(accesses: readonly Access[]): boolean {
  const shared = accesses.some(({ multiNode }) => multiNode);
  for (const access of accesses) {
    const problem = unsupportedBy({ shared }, access);
    if (problem !== '') throw invalid(problem);
  }
  return shared;
}
