import { StorError, parsePublishedExport } from '@stor/protocol';
import type { DeviceContent } from '../core/judge-content.ts';
import { mountAt, type MountEntry } from '../core/mount-info.ts';
import type { AllocationProbe, HostTools, MountPlace } from '../host-tools.ts';
import type { FileSystem, HostCheck, MountStats } from '../host-volumes.ts';
import type { MemoryVolumes } from './memory-volumes.ts';

/** What a block device of the fake host is made of. */
export interface FakeBlockDevice {
  /** name of its volume */
  volume: string;
  sizeBytes: number;
}

/**
 * Mounts and file systems of one host in memory. What is on a volume lies in `MemoryVolumes`, so that
 * other hosts find it there.
 */
export class FakeHostTools implements HostTools {
  /** what was done, in order: `mkfs ext4 /dev/loop0`, `mount /dev/loop0 /mnt/db` */
  readonly calls: string[] = [];
  readonly hostChecks: HostCheck[] = [
    { name: 'root', state: 'ok', text: 'the agent is root' },
    { name: 'fuse', state: 'ok', text: '/dev/fuse is there' },
    { name: 'loop', state: 'ok', text: '/dev/loop-control is there' },
  ];
  /** the kernel has an NBD */
  kernelNbd = false;
  /** who has files open, by target or device */
  readonly openFiles = new Map<string, string>();
  table: MountEntry[] = [];
  readonly #volumes: MemoryVolumes;
  readonly #deviceAt: (path: string) => FakeBlockDevice | null;
  readonly #failures = new Map<string, StorError[]>();

  constructor(options: {
    volumes: MemoryVolumes;
    /** null: there is no such block device */
    deviceAt: (path: string) => FakeBlockDevice | null;
  }) {
    this.#volumes = options.volumes;
    this.#deviceAt = options.deviceAt;
  }

  /** The next call of that method fails with it, having done nothing. */
  failNext(method: keyof HostTools, error: StorError): void {
    this.#failures.set(method, [...(this.#failures.get(method) ?? []), error]);
  }

  async probe(device: string): Promise<DeviceContent> {
    this.#begin('probe');
    const { fileSystem, foreign } = this.#content(device);
    const what = foreign === '' ? fileSystem : foreign;
    return { fileSystem, signatures: what === null ? [] : [`a signature of ${what}`] };
  }

  async hold(device: string): Promise<() => Promise<void>> {
    this.#begin('hold');
    this.#device(device);
    return async () => {};
  }

  async makeFileSystem(
    device: string,
    fileSystem: FileSystem,
    options: readonly string[],
  ): Promise<void> {
    this.calls.push(['mkfs', fileSystem, ...options, device].join(' '));
    const content = this.#content(device);
    content.hasData = true;
    this.#begin('makeFileSystem');
    content.hasData = false;
    content.fileSystem = fileSystem;
    content.fileSystemBytes = this.#device(device).sizeBytes;
  }

  async discard(device: string): Promise<void> {
    this.#begin('discard');
    this.calls.push(`discard ${device}`);
    const empty = { fileSystem: null, fileSystemBytes: 0, foreign: '', hasData: false };
    Object.assign(this.#content(device), empty);
  }

  async check(device: string): Promise<void> {
    this.#begin('check');
    this.calls.push(`check ${device}`);
  }

  async mount(order: MountPlace & { readOnly: boolean }): Promise<void> {
    this.#begin('mount');
    const { device, target, fileSystem, readOnly } = order;
    if (this.#content(device).fileSystem !== fileSystem) {
      throw new StorError('FAILED_PRECONDITION', `${device} carries no ${fileSystem}`);
    }
    this.calls.push(`mount ${device} ${target}${readOnly ? ' ro' : ''}`);
    this.#add({ target, readOnly, type: fileSystem, source: device });
  }

  async mountAgain({ from, target }: { from: string; target: string }): Promise<void> {
    this.#begin('mountAgain');
    const entry = mountAt(this.table, from);
    if (!entry) throw new StorError('FAILED_PRECONDITION', `nothing is mounted at ${from}`);
    this.calls.push(`mount again ${from} ${target}`);
    this.#add({ target, readOnly: true, type: entry.type, source: entry.source });
  }

  async unmount(target: string, { lazy }: { lazy: boolean }): Promise<void> {
    this.#begin('unmount');
    const entry = mountAt(this.table, target);
    if (!entry) return;
    if (!lazy && this.openFiles.has(target)) {
      throw new StorError('IN_USE', `${target} cannot be unmounted: target is busy`);
    }
    this.calls.push(`unmount ${target}${lazy ? ' lazy' : ''}`);
    this.table = this.table.filter((each) => each !== entry);
  }

  async grow({ device, target }: MountPlace): Promise<void> {
    this.#begin('grow');
    this.calls.push(`grow ${target}`);
    this.#content(device).fileSystemBytes = this.#device(device).sizeBytes;
  }

  async mounts(): Promise<MountEntry[]> {
    this.#begin('mounts');
    return [...this.table];
  }

  async deviceNumber(device: string): Promise<string | null> {
    return this.#deviceAt(device) ? numberOf(device) : null;
  }

  async realTarget(target: string): Promise<string> {
    return target.replaceAll(/\/+/g, '/').replace(/(.)\/$/, '$1');
  }

  async makeTarget(): Promise<void> {
    this.#begin('makeTarget');
  }

  async openers(path: string): Promise<string[]> {
    const who = this.openFiles.get(path);
    return who === undefined ? [] : [who];
  }

  async stats(target: string): Promise<MountStats> {
    const entry = mountAt(this.table, target);
    const totalBytes = entry ? this.#content(entry.source).fileSystemBytes : 0;
    const usedBytes = Math.floor(totalBytes / 10);
    const inodes = { totalInodes: 1000, usedInodes: 11, availableInodes: 989 };
    return { totalBytes, usedBytes, availableBytes: totalBytes - usedBytes, ...inodes };
  }

  async hasKernelNbd(): Promise<boolean> {
    this.#begin('hasKernelNbd');
    return this.kernelNbd;
  }

  async checks(): Promise<HostCheck[]> {
    this.#begin('checks');
    return structuredClone(this.hostChecks);
  }

  #add(entry: Pick<MountEntry, 'target' | 'readOnly' | 'type' | 'source'>): void {
    const device = numberOf(entry.source);
    this.table = [...this.table, { ...entry, device, root: '/', shared: true }];
  }

  #device(path: string): FakeBlockDevice {
    const device = this.#deviceAt(path);
    if (device) return device;
    throw new StorError('FAILED_PRECONDITION', `there is no device ${path}`);
  }

  #content(path: string): ReturnType<MemoryVolumes['content']> {
    return this.#volumes.content(this.#device(path).volume);
  }

  #begin(method: keyof HostTools): void {
    const [error, ...rest] = this.#failures.get(method) ?? [];
    this.#failures.set(method, rest);
    if (error) throw error;
  }
}

/** `/dev/loop3` has the number 7:3. */
function numberOf(device: string): string {
  return `7:${/[0-9]+$/.exec(device)?.[0] ?? '0'}`;
}

/** Of volumes in memory. */
export function memoryAllocation(volumes: MemoryVolumes): AllocationProbe {
  return {
    async hasData(exportName) {
      const { volume = '' } = parsePublishedExport(exportName) ?? {};
      const { fileSystem, foreign, hasData } = volumes.content(volume);
      return hasData || foreign !== '' || fileSystem !== null;
    },
  };
}
