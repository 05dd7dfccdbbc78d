import { hasCode, publishedExportName, StorError, type Volume } from '@stor/protocol';
import { nbdPlaces } from './core/device-addresses.ts';
import {
  hasUser,
  newDeviceRecord,
  withUser,
  withoutUser,
  type DeviceRecord,
} from './core/host-records.ts';
import { endingOf, keepsPublication } from './core/plan-reconcile.ts';
import { deviceFiles } from './device/device-files.ts';
import type { DeviceState } from './device/device-processes.ts';
import { exportAddresses } from './export-addresses.ts';
import type { HostParts } from './host-parts.ts';
import { neededForDevices } from './host-tools.ts';
import type { DetachOrder, DeviceUser, UsedMeans } from './host-volumes.ts';

/** What an order that failed has begun is taken back within this (ms); the rest is tried again later. */
const takeBackMs = 30_000;
/** A server may count a connection for a moment after its end: tries to unpublish, and their distance (ms). */
const unpublishTries = 8;
const unpublishPauseMs = 250;

/** The publication was certainly not made. */
const refusals = [
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'ATTACHED_ELSEWHERE',
  'FAILED_PRECONDITION',
  'INVALID_ARGUMENT',
] as const;

export interface WantedDevice {
  /** name or id */
  volume: string;
  user: DeviceUser;
  readOnly: boolean;
  /** for a mount that is made next: if that is cut off, the user has nothing of it */
  isPending?: boolean;
}

/**
 * Makes and ends the devices of one host. What is about to be done is written down first, so that a
 * start after a crash ends it. The caller sees to it that orders for one volume go one after another.
 */
export class DeviceOrders {
  readonly #parts: HostParts;

  constructor(parts: HostParts) {
    this.#parts = parts;
  }

  /** See HostVolumes.attach. */
  async attach(wanted: WantedDevice, signal: AbortSignal): Promise<DeviceRecord> {
    const { volumes, file } = this.#parts;
    const volume = await volumes.getVolume({ name: wanted.volume }, { signal });
    const known = file.find(volume.metadata.id);
    if (!known || known.volumeId !== volume.metadata.id)
      return this.#make(volume, wanted, [], signal);
    if (known.phase !== 'ready') {
      await this.end(known, signal);
      const now = await volumes.getVolume({ name: volume.metadata.id }, { signal });
      return this.#make(now, wanted, [], signal);
    }
    if (await this.#mustBeReplaced(known, volume, signal)) {
      await this.end(file.put(endingOf(known)), signal);
      const now = await volumes.getVolume({ name: volume.metadata.id }, { signal });
      return this.#make(now, wanted, known.users, signal);
    }
    if (known.readOnly !== wanted.readOnly) throw otherWay(known);
    if (hasUser(known, wanted.user)) return known;
    return file.put(pendingFor(withUser(known, wanted.user), wanted));
  }

  /** See HostVolumes.detach. */
  async detach(record: DeviceRecord, order: DetachOrder, signal: AbortSignal): Promise<void> {
    const { user, force = false, keepPublication = false } = order;
    const { file } = this.#parts;
    if (record.phase !== 'ready') {
      await this.end(record, signal);
      return;
    }
    const isLast = record.users.every((each) => each === user);
    const mounts = record.mounts.filter((mount) => isLast || mount.user === user);
    if (!force && mounts.length > 0) throw stillMounted(record);
    if (!force && !isLast) {
      file.put(withoutUser(record, user));
      return;
    }
    const ending = file.put({ ...record, phase: 'stopping', force, keepPublication });
    await this.#endOr(record, ending, signal);
  }

  /**
   * Its last mount of this user is over (`now`, as it is without it): the device ends with its last user.
   * After an error it is as it was `before`.
   */
  async leave(
    before: DeviceRecord,
    now: DeviceRecord,
    user: DeviceUser,
    signal: AbortSignal,
  ): Promise<void> {
    const { file } = this.#parts;
    const left = withoutUser(now, user);
    if (left.users.length > 0) {
      file.put(left);
      return;
    }
    const keepPublication = keepsPublication(now);
    // with its mount: whoever asks once more for the same waits until it is over
    const { mounts } = before;
    const ending = file.put({ ...now, mounts, phase: 'stopping', force: false, keepPublication });
    await this.#endOr(before, ending, signal);
  }

  /** Ends what is `stopping`, or was cut off while it was being made. Works twice. */
  async end(record: DeviceRecord, signal: AbortSignal): Promise<void> {
    const { file } = this.#parts;
    const ending = record.phase === 'stopping' ? record : file.put(endingOf(record));
    try {
      await this.#stop(ending, signal);
    } catch (error) {
      // it was not forced: whoever has it open keeps it, and may detach it again
      if (ending.force || !hasCode(error, 'IN_USE')) throw error;
      file.put({ ...ending, phase: 'ready' });
      throw await this.#inUse(ending, error);
    }
    await this.#finish(ending, signal);
  }

  /** FAILED_PRECONDITION: its requests fail for good, so what is mounted on it is of no use. */
  async checkAlive(record: DeviceRecord, signal: AbortSignal): Promise<void> {
    const state = await this.look(record, signal);
    const isHere = state?.path === record.path;
    const failure = isHere ? state.failure : goneText(record);
    if (failure !== null) throw lostDevice(record, failure);
  }

  /** Of the device's process; null when it is gone. What it says is remembered. */
  async look(record: DeviceRecord, signal: AbortSignal): Promise<DeviceState | null> {
    const { processes, failures } = this.#parts;
    const state = await processes.find(record.id, this.#parts.folder, signal);
    const failure = state ? state.failure : goneText(record);
    if (failure === null) failures.delete(record.id);
    else failures.set(record.id, failure);
    return state;
  }

  /** True: what there is serves nobody, and nothing is mounted on it. */
  async #mustBeReplaced(
    record: DeviceRecord,
    volume: Volume,
    signal: AbortSignal,
  ): Promise<boolean> {
    const state = await this.look(record, signal);
    const isRight = volume.status.publications.some(({ id }) => id === record.publication);
    if (state && isRight && state.failure === null) return false;
    if (record.mounts.length === 0) return true;
    if (state && isRight) return false;
    throw lostDevice(record, isRight ? goneText(record) : 'its right to the volume has ended');
  }

  async #make(
    volume: Volume,
    wanted: WantedDevice,
    users: readonly DeviceUser[],
    signal: AbortSignal,
  ): Promise<DeviceRecord> {
    const { file, nodeId } = this.#parts;
    const { metadata, spec, status } = volume;
    const used = await this.#parts.means.next();
    await this.#checkHost(used, signal);
    const own = status.publications.find((each) => each.nodeId === nodeId);
    const made = newDeviceRecord({
      // its log is the volume's, whichever device it has at the time
      id: metadata.id,
      volumeId: metadata.id,
      volume: metadata.name,
      publication: own?.id ?? null,
      readOnly: wanted.readOnly,
      sizeBytes: spec.sizeBytes,
      means: used.means,
      user: wanted.user,
    });
    const others = users.filter((each) => each !== wanted.user);
    const record = file.put({ ...made, users: [...others, wanted.user] });
    const published = await this.#publish(record, wanted.user, signal);
    try {
      const state = await this.#startBy(used, published, volume, signal);
      const { path, sizeBytes, means } = state;
      const made: DeviceRecord = { ...published, phase: 'ready', path, sizeBytes, means };
      return file.put(pendingFor(made, wanted));
    } catch (error) {
      await this.#takeBack(published);
      throw error;
    }
  }

  async #publish(
    record: DeviceRecord,
    owner: DeviceUser,
    signal: AbortSignal,
  ): Promise<DeviceRecord> {
    const { volumes, file, nodeId } = this.#parts;
    const { volumeId: name, readOnly } = record;
    try {
      const volume = await volumes.publishVolume(
        { name, node: nodeId, readOnly, owner },
        { signal },
      );
      const own = volume.status.publications.find((each) => each.nodeId === nodeId);
      if (!own) throw new StorError('INTERNAL', `volume ${record.volume} was not published`);
      return file.put({ ...record, publication: own.id });
    } catch (error) {
      if (hasCode(error, ...refusals)) file.remove(record.id);
      else await this.#takeBack(record);
      throw error;
    }
  }

  async #startBy(
    used: UsedMeans,
    record: DeviceRecord,
    volume: Volume,
    signal: AbortSignal,
  ): Promise<DeviceState> {
    const { file, means } = this.#parts;
    try {
      return await this.#start(record, volume, signal);
    } catch (error) {
      const other = means.otherThan(used, error);
      if (!other) throw error;
      await this.#checkHost(other, signal);
      const { means: otherMeans } = other;
      const state = await this.#start(file.put({ ...record, means: otherMeans }), volume, signal);
      means.settle(other);
      return state;
    }
  }

  async #start(
    record: DeviceRecord,
    { status }: Volume,
    signal: AbortSignal,
  ): Promise<DeviceState> {
    const { volumes, processes, nodeId, tls, logger, folder: dir } = this.#parts;
    const { id, volume, publication, readOnly, sizeBytes, means } = record;
    const { nodes } = await volumes.listNodes({}, { signal });
    const exportName = publishedExportName(publication ?? '', volume);
    const addresses = exportAddresses(nbdPlaces(nodes, nodeId, status), exportName, tls);
    const spec = { id, exportName, addresses, readOnly, sizeBytes, means, dir };
    const state = await processes.start(spec, signal);
    logger.info({ volume, device: state.path, means: state.means, readOnly }, 'volume is a device');
    return state;
  }

  /** FAILED_PRECONDITION names what the host lacks. */
  async #checkHost(used: UsedMeans, signal: AbortSignal): Promise<void> {
    const checks = await this.#parts.tools.checks(used, signal);
    const missing = checks.filter(
      ({ name, state }) => state === 'failed' && neededForDevices[used.means].includes(name),
    );
    if (missing.length === 0) return;
    const text = missing.map((check) => check.text).join('; ');
    throw new StorError('FAILED_PRECONDITION', `this host can make no device: ${text}`);
  }

  /** An order has failed in the middle: nobody may find anything of it. */
  async #takeBack(record: DeviceRecord): Promise<void> {
    const { logger } = this.#parts;
    try {
      await this.end(record, AbortSignal.timeout(takeBackMs));
    } catch (error) {
      const { message } = StorError.from(error);
      logger.warn({ volume: record.volume, error: message }, 'an attempt is taken back later');
    }
  }

  /** When its process cannot be stopped, the device goes on as it was. */
  async #endOr(before: DeviceRecord, ending: DeviceRecord, signal: AbortSignal): Promise<void> {
    const { file } = this.#parts;
    try {
      await this.#stop(ending, signal);
    } catch (error) {
      file.put(before);
      throw hasCode(error, 'IN_USE') ? await this.#inUse(before, error) : error;
    }
    await this.#finish(ending, signal);
  }

  async #stop(record: DeviceRecord, signal: AbortSignal): Promise<void> {
    const { processes, tools, logger, folder } = this.#parts;
    const { id, force } = record;
    if (force) {
      for (const { target } of record.mounts) {
        await tools.unmount(target, { lazy: true }, signal).catch((error: unknown) => {
          const { message } = StorError.from(error);
          logger.warn({ target, error: message }, 'what is mounted on a lost device stays');
        });
      }
    }
    // of one that has failed for good nothing can be written back: it is lost already
    const state = force ? null : await processes.find(id, folder, signal);
    const isLost = state !== null && state.failure !== null;
    await processes.stop(id, folder, { force: force || isLost }, signal);
  }

  async #finish(record: DeviceRecord, signal: AbortSignal): Promise<void> {
    const { file, files, folder, failures, logger } = this.#parts;
    if (!record.keepPublication) await this.#unpublish(record, signal);
    file.remove(record.id);
    // nobody asks how a device did that was given back in order
    const { log } = deviceFiles(record.id, folder);
    if (!record.force) for (const old of [log, `${log}.1`]) files.remove(old);
    failures.delete(record.id);
    logger.info({ volume: record.volume, device: record.path }, 'volume is no device any more');
  }

  /** Its process is gone: what is refused for a connection that is counted still may be forced. */
  async #unpublish(record: DeviceRecord, signal: AbortSignal): Promise<void> {
    const { volumes, nodeId, clock } = this.#parts;
    const { volumeId: name, publication, force: isForced } = record;
    const request = { name, node: nodeId, publication: publication ?? '' };
    const tries = isForced ? 1 : unpublishTries;
    for (let tried = 0; ; tried++) {
      try {
        await volumes.unpublishVolume({ ...request, force: tried >= tries }, { signal });
        return;
      } catch (error) {
        // the volume, or this node, is gone
        if (hasCode(error, 'NOT_FOUND')) return;
        if (!hasCode(error, 'FAILED_PRECONDITION') || tried >= tries) throw error;
        await new Promise<void>((resolve) => clock.after(unpublishPauseMs, resolve));
      }
    }
  }

  async #inUse(record: DeviceRecord, cause: unknown): Promise<StorError> {
    // the process has looked itself
    const told = hasCode(cause, 'IN_USE') ? (cause.details['users'] ?? '') : '';
    const openers = told === '' ? await this.#parts.tools.openers(record.path) : [told];
    const who = openers.length === 0 ? 'somebody has it open' : openers.join(', ');
    return new StorError(
      'FAILED_PRECONDITION',
      `the device ${record.path} of volume ${record.volume} is in use (${who}): end that first`,
      { cause },
    );
  }
}

function pendingFor(record: DeviceRecord, { user, isPending = false }: WantedDevice): DeviceRecord {
  return isPending ? { ...record, pendingUser: user } : record;
}

function goneText({ path, volume }: DeviceRecord): string {
  return `the process of device ${path} of volume ${volume} is gone`;
}

function lostDevice({ volume, mounts }: DeviceRecord, why: string): StorError {
  const targets = mounts.map(({ target }) => target).join(', ');
  const advice = targets === '' ? 'try again' : `unmount ${targets} first`;
  return new StorError(
    'FAILED_PRECONDITION',
    `the device of volume ${volume} does not work any more (${why}): ${advice}`,
  );
}

function otherWay({ volume, readOnly }: DeviceRecord): StorError {
  return new StorError(
    'ALREADY_EXISTS',
    `volume ${volume} is a device of this host already, ${readOnly ? 'read-only' : 'for writing'}: detach it first`,
  );
}

function stillMounted({ volume, mounts }: DeviceRecord): StorError {
  const where = mounts.map(({ target, user }) => `${target} (${user})`).join(', ');
  return new StorError(
    'FAILED_PRECONDITION',
    `volume ${volume} is mounted at ${where}: unmount it first`,
  );
}
