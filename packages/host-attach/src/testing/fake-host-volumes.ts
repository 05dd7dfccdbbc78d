import { StorError, type NodeId } from '@stor/protocol';
import { checkMountOrder, checkTarget } from '../core/check-order.ts';
import type {
  AttachOrder,
  DetachOrder,
  DeviceUser,
  HostCheck,
  HostDevice,
  HostMount,
  HostVolumes,
  MountOrder,
  MountStats,
} from '../host-volumes.ts';
import type { MemoryVolumes } from './memory-volumes.ts';

type HostCall = 'attach' | 'detach' | 'mount' | 'unmount' | 'grow' | 'stats' | 'checks';

interface FakeDevice extends Omit<HostDevice, 'users' | 'mounts'> {
  users: DeviceUser[];
  mounts: HostMount[];
}

/**
 * Devices and mounts of one host in memory, over `MemoryVolumes` that other hosts may share: the same
 * answers and errors as the real ones. It goes on when whoever uses it is started anew.
 */
export class FakeHostVolumes implements HostVolumes {
  /** what `checks` answers */
  readonly hostChecks: HostCheck[] = [
    { name: 'fuse', state: 'ok', text: '/dev/fuse is there' },
    { name: 'loop', state: 'ok', text: '/dev/loop-control is there' },
  ];
  /** calls that were made, in order: `mount db /mnt/db docker` */
  readonly calls: string[] = [];
  readonly #volumes: MemoryVolumes;
  readonly #nodeId: NodeId;
  readonly #devices = new Map<string, FakeDevice>();
  readonly #openFiles = new Map<string, string>();
  readonly #failures = new Map<HostCall, StorError[]>();
  readonly #holds = new Map<HostCall, Promise<void>>();
  readonly #queues = new Map<string, Promise<unknown>>();
  /** of orders to mount that have begun, with the volume of each */
  readonly #targets = new Map<string, string>();
  #loops = 0;

  constructor(volumes: MemoryVolumes, nodeId: NodeId) {
    this.#volumes = volumes;
    this.#nodeId = nodeId;
  }

  /** The next such call fails with it, having done nothing. */
  failNext(call: HostCall, error: StorError): void {
    this.#failures.set(call, [...(this.#failures.get(call) ?? []), error]);
  }

  /** Calls of that kind wait, before they do anything, until what is returned is called. */
  hold(call: HostCall): () => void {
    let release = (): void => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    this.#holds.set(call, held);
    return () => {
      if (this.#holds.get(call) === held) this.#holds.delete(call);
      release();
    };
  }

  /** Somebody has files open below a target (or a device's path); null: nobody any more. */
  setOpenFiles(at: string, who: string | null): void {
    if (who === null) this.#openFiles.delete(at);
    else this.#openFiles.set(at, who);
  }

  /** The device's requests fail from now on; null: they work again. */
  setFailure(volume: string, failure: string | null): void {
    const device = this.#find(volume);
    if (device) device.failure = failure;
  }

  /** As a reboot: devices and mounts are gone, and their publications end with the next start. */
  async reboot(): Promise<void> {
    const devices = [...this.#devices.values()];
    this.#devices.clear();
    this.#openFiles.clear();
    for (const device of devices) await this.#unpublish(device, true);
  }

  async attach(order: AttachOrder, signal: AbortSignal): Promise<HostDevice> {
    const { volume, user } = order;
    return this.#order('attach', `attach ${volume} ${user}`, volume, signal, async () =>
      copyOf(await this.#attach(order)),
    );
  }

  async detach(order: DetachOrder, signal: AbortSignal): Promise<void> {
    const { volume, user, force = false } = order;
    const text = `detach ${volume} ${user}${force ? ' force' : ''}`;
    await this.#order('detach', text, volume, signal, () => this.#detach(order));
  }

  async mount(order: MountOrder, signal: AbortSignal): Promise<HostMount> {
    checkMountOrder(order);
    const { volume, target, user } = order;
    const text = `mount ${volume} ${target} ${user}`;
    this.#targets.set(target, volume);
    try {
      return await this.#order('mount', text, volume, signal, () => this.#mount(order));
    } finally {
      this.#targets.delete(target);
    }
  }

  async unmount(
    order: { target: string; user: DeviceUser; keepAttached?: boolean },
    signal: AbortSignal,
  ): Promise<void> {
    const { target, user, keepAttached = false } = order;
    checkTarget(target);
    const found = this.#mountAt(target);
    const volume = found?.device.volumeId ?? this.#targets.get(target) ?? '';
    await this.#order('unmount', `unmount ${target} ${user}`, volume, signal, async () => {
      const at = this.#mountAt(target);
      if (!at) return;
      const { device, mount } = at;
      if (mount.user !== user) {
        throw new StorError(
          'FAILED_PRECONDITION',
          `${target} was mounted by ${mount.user}: it is unmounted there`,
        );
      }
      const who = this.#openFiles.get(target);
      if (who !== undefined) {
        throw new StorError('IN_USE', `${target} is in use: ${who} has files open there`);
      }
      const before = device.mounts;
      device.mounts = before.filter((each) => each !== mount);
      const isLast = !device.mounts.some((each) => each.user === user);
      if (keepAttached || !isLast) return;
      try {
        await this.#detach({ volume: device.volumeId, user });
      } catch (error) {
        device.mounts = before;
        throw error;
      }
    });
  }

  async grow(volume: string, signal: AbortSignal): Promise<HostDevice> {
    return this.#order('grow', `grow ${volume}`, volume, signal, async () => {
      const device = this.#find(volume);
      if (!device) throw notAttached(volume);
      const { spec } = await this.#volumes.getVolume({ name: device.volumeId });
      device.sizeBytes = Math.max(device.sizeBytes, spec.sizeBytes);
      if (device.mounts.some(({ readOnly }) => !readOnly)) this.#growFileSystem(device);
      return copyOf(device);
    });
  }

  async stats(target: string): Promise<MountStats> {
    await this.#begin('stats');
    const at = this.#mountAt(target);
    if (!at) throw new StorError('NOT_FOUND', `nothing of Stor is mounted at ${target}`);
    const totalBytes = this.#volumes.content(at.device.volumeId).fileSystemBytes;
    const usedBytes = Math.floor(totalBytes / 10);
    return {
      totalBytes,
      usedBytes,
      availableBytes: totalBytes - usedBytes,
      totalInodes: 1000,
      usedInodes: 11,
      availableInodes: 989,
    };
  }

  list(): readonly HostDevice[] {
    return [...this.#devices.values()].map(copyOf);
  }

  async checks(signal: AbortSignal): Promise<HostCheck[]> {
    await this.#begin('checks');
    signal.throwIfAborted();
    return structuredClone(this.hostChecks);
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.#queues.values());
  }

  async #attach({ volume, user, readOnly = false }: AttachOrder): Promise<FakeDevice> {
    const { metadata, spec, status } = await this.#volumes.getVolume({ name: volume });
    const found = this.#devices.get(metadata.id);
    const isPublished = status.publications.some(({ id }) => id === found?.publication);
    if (found && isPublished) {
      if (found.readOnly !== readOnly) throw otherWay(found);
      if (!found.users.includes(user)) found.users.push(user);
      return found;
    }
    if (found && found.mounts.length > 0) {
      throw lostDevice(found, 'its right to the volume has ended');
    }
    this.#devices.delete(metadata.id);
    const published = await this.#volumes.publishVolume({
      name: metadata.id,
      node: this.#nodeId,
      readOnly,
      owner: user,
    });
    const publication = published.status.publications.find(({ nodeId }) => nodeId === this.#nodeId);
    if (!publication) throw new StorError('INTERNAL', `volume ${volume} was not published`);
    this.#volumes.setConnected(publication.id, true);
    const device: FakeDevice = {
      volumeId: metadata.id,
      volume: metadata.name,
      publication: publication.id,
      means: 'fuse-loop',
      path: `/dev/loop${this.#loops++}`,
      sizeBytes: spec.sizeBytes,
      readOnly,
      users: [user],
      mounts: [],
      failure: null,
    };
    this.#devices.set(device.volumeId, device);
    return device;
  }

  async #detach(order: DetachOrder): Promise<void> {
    const { volume, user, force = false, keepPublication = false } = order;
    const device = this.#find(volume);
    if (!device) return;
    const own = device.mounts.filter((mount) => mount.user === user);
    const others = device.users.filter((each) => each !== user);
    const isLast = others.length === 0;
    const mounts = isLast ? device.mounts : own;
    if (!force && mounts.length > 0) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `volume ${device.volume} is mounted at ${mounts.map(({ target }) => target).join(', ')}: unmount it first`,
      );
    }
    if (!force && !isLast) {
      device.users = others;
      return;
    }
    const who = this.#openFiles.get(device.path);
    if (!force && who !== undefined) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `the device ${device.path} is in use (${who}): end that first`,
      );
    }
    this.#volumes.setConnected(device.publication, false);
    if (!keepPublication) await this.#unpublish(device, force);
    this.#devices.delete(device.volumeId);
  }

  async #unpublish({ volumeId, publication }: FakeDevice, force: boolean): Promise<void> {
    this.#volumes.setConnected(publication, false);
    if (!this.#volumes.has(volumeId)) return;
    const node = this.#nodeId;
    await this.#volumes.unpublishVolume({ name: volumeId, node, publication, force });
  }

  async #mount(order: MountOrder): Promise<HostMount> {
    const { volume, user, target, fileSystem, options = [], readOnly = false } = order;
    const { metadata, status } = await this.#volumes.getVolume({ name: volume });
    const known = this.#mountAt(target);
    if (known) {
      const isSame =
        known.device.volumeId === metadata.id &&
        known.mount.user === user &&
        known.mount.readOnly === readOnly &&
        (fileSystem ?? known.mount.fileSystem) === known.mount.fileSystem &&
        sameOptions(known.mount.options, options);
      if (isSame && known.device.failure !== null) {
        throw lostDevice(known.device, known.device.failure);
      }
      if (isSame) return structuredClone(known.mount);
      throw new StorError(
        'ALREADY_EXISTS',
        `volume ${known.device.volume} is mounted at ${target} by ${known.mount.user} otherwise: unmount it first`,
      );
    }
    const had = this.#devices.get(metadata.id)?.users.includes(user) ?? false;
    const own = status.publications.find(({ nodeId }) => nodeId === this.#nodeId);
    // a file system may be mounted for reading only on a device that can be written
    const isReadOnly = readOnly && own?.readOnly !== false;
    const device = await this.#attach({ volume, user, readOnly: isReadOnly });
    try {
      const mount: HostMount = {
        target,
        fileSystem: this.#fileSystemOf(device, order),
        readOnly,
        options: [...options],
        user,
      };
      const isReadOnlyHere = device.mounts.every((each) => each.readOnly);
      if (!readOnly && device.mounts.length > 0 && isReadOnlyHere) {
        throw new StorError(
          'FAILED_PRECONDITION',
          `volume ${device.volume} is mounted read-only on this host: unmount that first`,
        );
      }
      if (!readOnly) this.#growFileSystem(device);
      device.mounts.push(mount);
      return structuredClone(mount);
    } catch (error) {
      if (!had) await this.#detach({ volume: metadata.id, user });
      throw error;
    }
  }

  #fileSystemOf(device: FakeDevice, { fileSystem, readOnly = false }: MountOrder): 'ext4' | 'xfs' {
    const content = this.#volumes.content(device.volumeId);
    if (content.fileSystem !== null) {
      if (fileSystem === undefined || fileSystem === content.fileSystem) return content.fileSystem;
      throw new StorError(
        'FOREIGN_DATA',
        `volume ${device.volume} carries ${content.fileSystem}, not ${fileSystem}: it is not formatted again`,
      );
    }
    if (content.foreign !== '' || content.hasData) {
      const what = content.foreign === '' ? 'data without a known signature' : content.foreign;
      throw new StorError('FOREIGN_DATA', `volume ${device.volume} carries ${what}: not formatted`);
    }
    if (readOnly || device.readOnly) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `volume ${device.volume} has no file system, and is to be mounted read-only`,
      );
    }
    content.fileSystem = fileSystem ?? 'ext4';
    content.fileSystemBytes = device.sizeBytes;
    return content.fileSystem;
  }

  #growFileSystem(device: FakeDevice): void {
    const content = this.#volumes.content(device.volumeId);
    content.fileSystemBytes = Math.max(content.fileSystemBytes, device.sizeBytes);
  }

  #find(volume: string): FakeDevice | null {
    for (const device of this.#devices.values()) {
      if (device.volumeId === volume || device.volume === volume) return device;
    }
    return null;
  }

  #mountAt(target: string): { device: FakeDevice; mount: HostMount } | null {
    for (const device of this.#devices.values()) {
      const mount = device.mounts.find((each) => each.target === target);
      if (mount) return { device, mount };
    }
    return null;
  }

  async #begin(call: HostCall): Promise<void> {
    await this.#holds.get(call);
    const [error, ...rest] = this.#failures.get(call) ?? [];
    this.#failures.set(call, rest);
    if (error) throw error;
  }

  /** One after another for each volume, known by its id where it has one. */
  #order<T>(
    call: HostCall,
    text: string,
    volume: string,
    signal: AbortSignal,
    run: () => Promise<T>,
  ): Promise<T> {
    const key = this.#volumes.has(volume) ? this.#volumes.find(volume).metadata.id : volume;
    const before = this.#queues.get(key) ?? Promise.resolve();
    const done = before.then(async () => {
      if (signal.aborted) throw new StorError('ABORTED', `${call} of ${volume} was aborted`);
      this.calls.push(text);
      await this.#begin(call);
      return run();
    });
    this.#queues.set(
      key,
      done.catch(() => {}),
    );
    return done;
  }
}

function copyOf(device: FakeDevice): HostDevice {
  return structuredClone(device);
}

function sameOptions(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((option, index) => option === other[index]);
}

function otherWay({ volume, readOnly }: FakeDevice): StorError {
  return new StorError(
    'ALREADY_EXISTS',
    `volume ${volume} is a device here already, ${readOnly ? 'read-only' : 'for writing'}: detach it first`,
  );
}

function lostDevice({ volume, mounts }: FakeDevice, why: string): StorError {
  const targets = mounts.map(({ target }) => target).join(', ');
  return new StorError(
    'FAILED_PRECONDITION',
    `the device of volume ${volume} does not work any more (${why}): unmount ${targets} first`,
  );
}

function notAttached(volume: string): StorError {
  return new StorError('NOT_FOUND', `volume ${volume} is no device of this host`);
}
