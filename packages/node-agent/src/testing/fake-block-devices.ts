import { StorError } from '@stor/protocol';
import type { Files } from '@stor/runtime';
import { minDeviceBytes } from '../core/devices/judge-device.ts';
import type { BlockDevices, DeviceFindings } from '../devices/block-devices.ts';

interface FakeDevice {
  findings: DeviceFindings;
  fileSystemUuid: string | null;
}

/**
 * Block devices in memory. What is written to a mounted one lies in the directory of the files that
 * it is given: a fake has one mount per directory and loses nothing by unmounting.
 */
export class FakeBlockDevices implements BlockDevices {
  readonly devices = new Map<string, FakeDevice>();
  readonly mounts = new Map<string, string>();
  /** what was done, in order: `format /dev/sdb force`, `mount UUID DIRECTORY`, `unmount DIRECTORY` */
  readonly calls: string[] = [];
  fileSystem = 'xfs';
  readonly #files: Files;

  constructor(files: Files) {
    this.#files = files;
  }

  add(path: string, change: Partial<DeviceFindings> = {}): void {
    const findings: DeviceFindings = {
      path,
      sizeBytes: minDeviceBytes,
      readOnly: false,
      mounts: [],
      holders: [],
      partitions: [],
      isInUse: false,
      signatures: [],
      hasData: false,
      ...change,
    };
    this.devices.set(path, { findings, fileSystemUuid: null });
  }

  async kindOf(path: string): Promise<'directory' | 'block-device' | 'other'> {
    return this.devices.has(path) ? 'block-device' : 'directory';
  }

  async fileSystemOf(): Promise<string> {
    return this.fileSystem;
  }

  async inspect(path: string): Promise<DeviceFindings> {
    return this.#device(path).findings;
  }

  async format(path: string, options: { fileSystemUuid: string; force: boolean }): Promise<void> {
    this.calls.push(`format ${path}${options.force ? ' force' : ''}`);
    const device = this.#device(path);
    device.fileSystemUuid = options.fileSystemUuid;
    device.findings = { ...device.findings, signatures: ['a signature of xfs'], hasData: true };
  }

  async mount(fileSystemUuid: string, directory: string): Promise<void> {
    if (this.mounts.has(directory)) return;
    const found = [...this.devices.values()].find((each) => each.fileSystemUuid === fileSystemUuid);
    if (!found) {
      throw new StorError('FAILED_PRECONDITION', `can't find UUID=${fileSystemUuid}`);
    }
    this.calls.push(`mount ${directory}`);
    this.#files.makeDirectory(directory);
    this.mounts.set(directory, fileSystemUuid);
  }

  async unmount(directory: string): Promise<void> {
    if (this.mounts.delete(directory)) this.calls.push(`unmount ${directory}`);
  }

  async mountsBelow(directory: string): Promise<string[]> {
    return [...this.mounts.keys()].filter((path) => path.startsWith(`${directory}/`));
  }

  #device(path: string): FakeDevice {
    const device = this.devices.get(path);
    if (!device) throw new StorError('INVALID_ARGUMENT', `${path} is no block device`);
    return device;
  }
}
