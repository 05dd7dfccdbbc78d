import { hasCode, publishedExportName, StorError } from '@stor/protocol';
import { sameOptions } from './core/check-order.ts';
import {
  hasUser,
  withMount,
  withoutMount,
  type DeviceRecord,
  type MountRecord,
} from './core/host-records.ts';
import { judgeContent, refuseData } from './core/judge-content.ts';
import { mountAt } from './core/mount-info.ts';
import type { DeviceOrders } from './device-orders.ts';
import type { HostParts } from './host-parts.ts';
import type { DeviceUser, FileSystem, MountOrder } from './host-volumes.ts';

/** What an order that failed has begun is taken back within this (ms); the rest is tried again later. */
const takeBackMs = 30_000;

/** How a device comes to a target. */
type Way =
  /** the first mount of it, of a file system that is there or is made for it */
  | { type: 'first'; fileSystem: FileSystem; isNew: boolean }
  /** one more of the same mode */
  | { type: 'more'; fileSystem: FileSystem }
  /** for reading only, of one that is written elsewhere on this host */
  | { type: 'again'; fileSystem: FileSystem; from: string };

/**
 * Mounts and file systems on the devices of one host; see DeviceOrders for what is written down and
 * who calls when. Targets are real paths here.
 */
export class MountOrders {
  readonly #parts: HostParts;
  readonly #devices: DeviceOrders;

  constructor(parts: HostParts, devices: DeviceOrders) {
    this.#parts = parts;
    this.#devices = devices;
  }

  /** See HostVolumes.mount. */
  async mount(order: MountOrder, target: string, signal: AbortSignal): Promise<MountRecord> {
    const { volumes, file, nodeId } = this.#parts;
    const { user, readOnly = false } = order;
    const { metadata, status } = await volumes.getVolume({ name: order.volume }, { signal });
    const { id } = metadata;
    const present = await this.#present(order, id, target, signal);
    if (present) return present;
    const before = file.find(id);
    const isNewUser = before?.phase !== 'ready' || !hasUser(before, user);
    const own = status.publications.find((each) => each.nodeId === nodeId);
    // a file system may be mounted for reading only on a device that can be written
    const isReadOnly = readOnly && own?.readOnly !== false;
    const wanted = { volume: id, user, readOnly: isReadOnly, isPending: isNewUser };
    const device = await this.#devices.attach(wanted, signal);
    try {
      return await this.#mountHeld(order, device, { target, isNewUser }, signal);
    } catch (error) {
      if (isNewUser) await this.#leaveAgain(device.id, user);
      throw error;
    }
  }

  /** While it is held, the path is this volume's device: what is seen there is what is formatted. */
  async #mountHeld(
    order: MountOrder,
    device: DeviceRecord,
    at: { target: string; isNewUser: boolean },
    signal: AbortSignal,
  ): Promise<MountRecord> {
    const release = await this.#parts.tools.hold(device.path);
    try {
      await this.#devices.checkAlive(device, signal);
      const way = await this.#choose(order, device, signal);
      return await this.#mountOn(order, device, { ...at, way }, signal);
    } finally {
      await release();
    }
  }

  /** See HostVolumes.unmount. */
  async unmount(
    record: DeviceRecord,
    order: { target: string; user: DeviceUser; keepAttached?: boolean },
    signal: AbortSignal,
  ): Promise<void> {
    const { target, user, keepAttached = false } = order;
    const mount = record.mounts.find((each) => each.target === target);
    if (!mount) return;
    if (mount.user !== user) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `${target} was mounted by ${mount.user}: it is unmounted there, not by ${user}`,
      );
    }
    const { file } = this.#parts;
    const ending = { ...mount, phase: 'unmounting' as const, keepAttached };
    await this.#end(file.put(withMount(record, ending)), ending, signal);
  }

  /** Makes the device, and what is mounted on it, as large as the volume is. */
  async grow(record: DeviceRecord, sizeBytes: number, signal: AbortSignal): Promise<DeviceRecord> {
    const { file, processes, logger, folder } = this.#parts;
    const { id, volume } = record;
    let now = record;
    if (sizeBytes > record.sizeBytes) {
      const state = await processes.grow(id, folder, sizeBytes, signal);
      now = file.put({ ...record, sizeBytes: state.sizeBytes });
      logger.info({ volume, device: now.path, sizeBytes: now.sizeBytes }, 'device has grown');
    }
    return this.#growFileSystem(now, signal);
  }

  /** Is there a file system that is smaller than its device, and can grow? */
  needsGrowth(record: DeviceRecord): boolean {
    return record.grownBytes !== record.sizeBytes && writableMount(record) !== undefined;
  }

  /** Ends an order to mount that was cut off. */
  async undoMount(record: DeviceRecord, mount: MountRecord, signal: AbortSignal): Promise<void> {
    const { file } = this.#parts;
    const { target, user, isNewUser } = mount;
    try {
      if (await this.#isMounted(record, target)) await this.#unmount(target, signal);
    } catch (error) {
      if (!hasCode(error, 'IN_USE')) throw error;
      // it had come about, and somebody works there
      file.put(withMount(record, { ...mount, phase: 'mounted' }));
      return;
    }
    const now = withoutMount(record, target);
    const isLast = !now.mounts.some((each) => each.user === user);
    if (isNewUser && isLast) await this.#devices.leave(record, now, user, signal);
    else file.put(now);
  }

  /** Ends an order to unmount that was cut off. */
  async finishUnmount(
    record: DeviceRecord,
    mount: MountRecord,
    signal: AbortSignal,
  ): Promise<void> {
    await this.#end(record, mount, signal);
  }

  /** The same mount is there already; null: none is. ALREADY_EXISTS: another one. */
  async #present(
    order: MountOrder,
    volumeId: string,
    target: string,
    signal: AbortSignal,
  ): Promise<MountRecord | null> {
    const { file, tools } = this.#parts;
    const record = file.devices.find(({ mounts }) => mounts.some((each) => each.target === target));
    const mount = record?.mounts.find((each) => each.target === target);
    if (record && mount) {
      const isSame =
        record.volumeId === volumeId &&
        mount.user === order.user &&
        mount.readOnly === (order.readOnly ?? false) &&
        (order.fileSystem ?? mount.fileSystem) === mount.fileSystem &&
        sameOptions(mount.options, order.options ?? []);
      if (!isSame) throw mountedOtherwise(record, mount);
      if (mount.phase === 'mounting') await this.undoMount(record, mount, signal);
      else if (mount.phase === 'unmounting') await this.finishUnmount(record, mount, signal);
      else if (await this.#isMounted(record, target)) {
        await this.#devices.checkAlive(record, signal);
        return mount;
      }
      // somebody has unmounted it by hand
      else file.put(withoutMount(record, target));
    }
    const other = mountAt(await tools.mounts(), target);
    if (!other) return null;
    throw new StorError(
      'ALREADY_EXISTS',
      `something else is mounted at ${target} (${other.type} from ${other.source}): unmount it, or choose another target`,
    );
  }

  async #choose(order: MountOrder, device: DeviceRecord, signal: AbortSignal): Promise<Way> {
    const { readOnly = false, fileSystem: wanted } = order;
    const { volume, path } = device;
    const mounted = device.mounts.filter(({ phase }) => phase === 'mounted');
    const [first] = mounted;
    if (!first) {
      const content = await this.#parts.tools.probe(path, signal);
      const isReadOnly = readOnly || device.readOnly;
      const about = { volume, path, readOnly: isReadOnly };
      const verdict = judgeContent(content, {
        ...about,
        ...(wanted === undefined ? {} : { fileSystem: wanted }),
      });
      if (verdict.type === 'format') await this.#checkEmpty(device, signal);
      return { type: 'first', fileSystem: verdict.fileSystem, isNew: verdict.type === 'format' };
    }
    const { fileSystem } = first;
    // it is known without looking, and the device is busy
    const signatures: string[] = [];
    judgeContent(
      { fileSystem, signatures },
      { volume, path, readOnly, ...(wanted === undefined ? {} : { fileSystem: wanted }) },
    );
    if (mounted.some((mount) => mount.readOnly === readOnly)) return { type: 'more', fileSystem };
    if (readOnly) return { type: 'again', fileSystem, from: first.target };
    throw new StorError(
      'FAILED_PRECONDITION',
      `volume ${volume} is mounted read-only at ${first.target}: unmount that before it is mounted for writing`,
    );
  }

  /** FOREIGN_DATA unless nothing was ever written to the volume, or all of it was discarded. */
  async #checkEmpty(device: DeviceRecord, signal: AbortSignal): Promise<void> {
    const { volume, publication, path } = device;
    const exportName = publishedExportName(publication ?? '', volume);
    if (await this.#parts.allocation.hasData(exportName, signal)) throw refuseData(volume, path);
  }

  async #mountOn(
    order: MountOrder,
    device: DeviceRecord,
    at: { target: string; way: Way; isNewUser: boolean },
    signal: AbortSignal,
  ): Promise<MountRecord> {
    const { file, logger } = this.#parts;
    const { target, way, isNewUser } = at;
    const { readOnly = false, options = [], user } = order;
    const { fileSystem } = way;
    const mount: MountRecord = {
      ...{ target, fileSystem, readOnly, options: [...options], user, isNewUser },
      phase: 'mounting',
      keepAttached: false,
    };
    const record = file.put(withMount({ ...device, pendingUser: null }, mount));
    try {
      await this.#carryOut(order, record, { target, way }, signal);
    } catch (error) {
      await this.#takeBack(record, mount);
      throw error;
    }
    const isNew = way.type === 'first' && way.isNew;
    const mounted: MountRecord = { ...mount, phase: 'mounted', isNewUser: false };
    const grownBytes = isNew ? record.sizeBytes : record.grownBytes;
    const now = file.put(withMount({ ...record, grownBytes }, mounted));
    const { volume, path } = record;
    logger.info({ volume, device: path, target, fileSystem, isNew, readOnly }, 'volume mounted');
    // a clone may be larger than what it was made of, and a volume may grow while it is mounted nowhere
    await this.#growFileSystem(now, signal).catch((error: unknown) => {
      const { message } = StorError.from(error);
      logger.warn({ volume, target, error: message }, 'the file system has not grown');
    });
    return mounted;
  }

  async #carryOut(
    order: MountOrder,
    { path, volume }: DeviceRecord,
    { target, way }: { target: string; way: Way },
    signal: AbortSignal,
  ): Promise<void> {
    const { tools, logger } = this.#parts;
    const { fileSystem } = way;
    const { readOnly = false, options = [], formatOptions = [] } = order;
    if (way.type === 'first' && way.isNew) {
      logger.info({ volume, device: path, fileSystem }, 'making a file system');
      await this.#format(path, fileSystem, formatOptions);
    } else if (way.type === 'first' && !readOnly) {
      await tools.check(path, fileSystem, signal);
    }
    await tools.makeTarget(target);
    if (way.type === 'again') await tools.mountAgain({ from: way.from, target }, signal);
    else await tools.mount({ device: path, target, fileSystem, options, readOnly }, signal);
  }

  /**
   * Once begun it is not given up with its caller: half of it would be data that nobody knows, and the
   * volume would never be formatted again. For the same reason what a failed one leaves is discarded.
   */
  async #format(path: string, fileSystem: FileSystem, options: readonly string[]): Promise<void> {
    const { tools, logger } = this.#parts;
    const always = new AbortController().signal;
    try {
      await tools.makeFileSystem(path, fileSystem, options, always);
    } catch (error) {
      // what is on it was made by somebody else
      if (hasCode(error, 'IN_USE')) throw error;
      await tools.discard(path, always).catch((again: unknown) => {
        logger.warn({ device: path, error: StorError.from(again).message }, 'half a file system');
      });
      throw error;
    }
  }

  async #growFileSystem(record: DeviceRecord, signal: AbortSignal): Promise<DeviceRecord> {
    const { file, tools } = this.#parts;
    const mount = writableMount(record);
    if (!mount || record.grownBytes === record.sizeBytes) return record;
    const { target, fileSystem } = mount;
    await tools.grow({ device: record.path, target, fileSystem }, signal);
    return file.put({ ...record, grownBytes: record.sizeBytes });
  }

  /** `mount` is `unmounting`; after an error it is mounted as before, unless it is not. */
  async #end(record: DeviceRecord, mount: MountRecord, signal: AbortSignal): Promise<void> {
    const { file, logger } = this.#parts;
    const { target, user, keepAttached } = mount;
    try {
      await this.#unmount(target, signal);
    } catch (error) {
      file.put(withMount(record, { ...mount, phase: 'mounted', keepAttached: false }));
      throw error;
    }
    const { volume, path } = record;
    logger.info({ volume, device: path, target }, 'volume unmounted');
    const now = withoutMount(record, target);
    const isLast = !now.mounts.some((each) => each.user === user);
    if (keepAttached || !isLast || record.phase !== 'ready') file.put(now);
    // the record of the mount stays until the device is gone: the same order again ends it
    else await this.#devices.leave(record, now, user, signal);
  }

  async #unmount(target: string, signal: AbortSignal): Promise<void> {
    const { tools } = this.#parts;
    try {
      await tools.unmount(target, { lazy: false }, signal);
    } catch (error) {
      if (!hasCode(error, 'IN_USE')) throw error;
      const openers = await tools.openers(target);
      const who = openers.length === 0 ? 'somebody' : openers.join(', ');
      throw new StorError(
        'IN_USE',
        `${target} cannot be unmounted: ${who} has files open there, or works in it`,
        { cause: error },
      );
    }
  }

  async #takeBack(record: DeviceRecord, mount: MountRecord): Promise<void> {
    const { logger } = this.#parts;
    try {
      // the device is the caller's to give back
      const kept = { ...mount, isNewUser: false };
      await this.undoMount(record, kept, AbortSignal.timeout(takeBackMs));
    } catch (error) {
      const { message } = StorError.from(error);
      logger.warn({ target: mount.target, error: message }, 'a mount is taken back later');
    }
  }

  async #leaveAgain(id: string, user: DeviceUser): Promise<void> {
    const { file, logger } = this.#parts;
    const record = file.byId(id);
    // what could not be taken back keeps the device, and is taken back later with it
    if (!record || record.mounts.some((mount) => mount.user === user)) return;
    try {
      await this.#devices.leave(record, record, user, AbortSignal.timeout(takeBackMs));
    } catch (error) {
      const { message } = StorError.from(error);
      logger.warn({ volume: record.volume, error: message }, 'the device stays for now');
    }
  }

  async #isMounted(record: DeviceRecord, target: string): Promise<boolean> {
    const { tools } = this.#parts;
    const found = mountAt(await tools.mounts(), target);
    return found !== null && found.device === (await tools.deviceNumber(record.path));
  }
}

function writableMount({ mounts }: DeviceRecord): MountRecord | undefined {
  return mounts.find(({ phase, readOnly }) => phase === 'mounted' && !readOnly);
}

function mountedOtherwise({ volume }: DeviceRecord, mount: MountRecord): StorError {
  const { target, user, fileSystem, readOnly } = mount;
  return new StorError(
    'ALREADY_EXISTS',
    `volume ${volume} is mounted at ${target} already, as ${fileSystem}${readOnly ? ', read-only,' : ''} by ${user}: unmount it first`,
  );
}
