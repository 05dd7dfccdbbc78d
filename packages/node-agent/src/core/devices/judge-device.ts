import { StorError, formatByteSize } from '@stor/protocol';
import type { DeviceFindings } from '../../devices/block-devices.ts';

/** Less than this is not worth a file system: XFS itself wants 300 MiB (bytes). */
export const minDeviceBytes = 320 * 1024 * 1024;

/**
 * Refuses a device that must not be formatted. What is in use stays untouched whatever is asked;
 * what is only there may be given up with `force`. IN_USE, FOREIGN_DATA, FAILED_PRECONDITION.
 */
export function judgeDevice(findings: DeviceFindings, force: boolean): void {
  const { path, sizeBytes, readOnly, mounts, holders, isInUse } = findings;
  if (mounts.length > 0) {
    throw new StorError(
      'IN_USE',
      `device ${path} is mounted at ${mounts.join(', ')}: unmount it first, or give that directory`,
    );
  }
  if (holders.length > 0) {
    throw new StorError(
      'IN_USE',
      `device ${path} is part of ${holders.join(', ')} (LVM, RAID or device mapper): take it out of there first`,
    );
  }
  if (isInUse) {
    throw new StorError(
      'IN_USE',
      `device ${path} is in use (another program, swap, or a file system has it open for itself)`,
    );
  }
  if (readOnly) throw new StorError('FAILED_PRECONDITION', `device ${path} is read-only`);
  if (sizeBytes < minDeviceBytes) {
    throw new StorError(
      'FAILED_PRECONDITION',
      `device ${path} has ${formatByteSize(sizeBytes)}: at least ${formatByteSize(minDeviceBytes)} are needed`,
    );
  }
  if (force) return;
  const found = contentOf(findings);
  if (found.length === 0) return;
  throw new StorError(
    'FOREIGN_DATA',
    `device ${path} is not empty, it has ${found.join(', ')}: nothing was changed. Give --force-format to destroy what is on it`,
  );
}

function contentOf({ signatures, partitions, hasData }: DeviceFindings): string[] {
  const found = [...signatures];
  if (partitions.length > 0) found.push(`partitions ${partitions.join(', ')}`);
  if (found.length === 0 && hasData) {
    found.push('data of an unknown kind (its first or last MiB is not all zeros)');
  }
  return found;
}

/** File systems that lose what they hold when the host or the network goes, and why. */
const refusedFileSystems: ReadonlyMap<string, string> = new Map([
  ['tmpfs', 'is in memory: a reboot would lose every replica on it'],
  ['ramfs', 'is in memory: a reboot would lose every replica on it'],
  ['nfs', 'is on the network: give a local disk'],
  ['nfs4', 'is on the network: give a local disk'],
  ['cifs', 'is on the network: give a local disk'],
  ['smb3', 'is on the network: give a local disk'],
  ['9p', 'is on the network: give a local disk'],
  ['squashfs', 'is read-only'],
  ['iso9660', 'is read-only'],
  ['vfat', 'has no sparse files, which thin volumes need'],
  ['exfat', 'has no sparse files, which thin volumes need'],
]);

const testedFileSystems = new Set(['ext4', 'xfs']);

/**
 * Refuses a directory on a file system that cannot hold replicas (FAILED_PRECONDITION); returns what
 * to tell of one that is not tested, '' when nothing.
 */
export function judgeFileSystem(path: string, type: string): string {
  const reason = refusedFileSystems.get(type);
  if (reason !== undefined) {
    throw new StorError(
      'FAILED_PRECONDITION',
      `directory ${path} cannot be a disk: its file system (${type}) ${reason}`,
    );
  }
  return testedFileSystems.has(type)
    ? ''
    : `its file system is ${type}; only ext4 and xfs are tested`;
}
