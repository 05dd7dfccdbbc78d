import path from 'node:path';
import type { HostDevice, HostVolumes } from '@stor/host-attach';
import { nodeLeaseMs, StorError } from '@stor/protocol';
import type { Volume, VolumeId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import { isPassing, pause } from './again.ts';
import { dataFolderChoice, dataFolderName } from './core/data-folder-choice.ts';
import { fileSystemOptionsOf } from './core/file-system-labels.ts';
import { leftoverRetryMs, lookAgainMs, takeOverExtraMs } from './core/limits.ts';
import { mountedVolume } from './core/mount-table.ts';
import type { MountBook } from './mount-book.ts';
import type { MountedFolders } from './mounted-folders.ts';
import type { OpenCall } from './open-call.ts';
import type { VolumeTurns } from './volume-turns.ts';

const user = 'docker';

interface HostMountsOptions {
  hosts: HostVolumes;
  folders: MountedFolders;
  book: MountBook;
  mountDir: string;
  turns: VolumeTurns;
  clock: Clock;
  logger: Logger;
}

/**
 * The mounts of this host that are Docker's: makes and ends them, and sees to it that in the end
 * those are there that the table counts, and no others.
 */
export class HostMounts {
  readonly #options: HostMountsOptions;
  readonly #timers = new Map<VolumeId, () => void>();
  readonly #background = new Set<Promise<void>>();
  /** an unmount that has begun is never given up in the middle */
  readonly #always = new AbortController().signal;
  #closed = false;

  constructor(options: HostMountsOptions) {
    this.#options = options;
  }

  /**
   * What is not mounted is used by nobody, whatever was counted; what nobody has counted is unmounted. Of
   * folders that a reboot has left nothing stays.
   */
  async reconcile(): Promise<void> {
    const { hosts, book, folders, mountDir } = this.#options;
    const own = hosts.list().filter(({ users }) => users.includes(user));
    const mounted = own.filter((device) => this.#isAt(device)).map(({ volumeId }) => volumeId);
    book.keepOnly(new Set(mounted));
    for (const name of await folders.names(mountDir)) {
      const isOwn = own.some(({ volumeId }) => volumeId === name);
      if (!isOwn) await folders.removeEmpty(path.join(mountDir, name));
    }
    for (const { volumeId, volume } of own) {
      if (mountedVolume(book.table, volumeId)) continue;
      this.inBackground(volume, () => this.clearOrLater(volumeId, volume));
    }
  }

  /** Somebody may have unmounted it by hand: what is believed to be mounted is looked at. */
  async isMounted(volumeId: VolumeId): Promise<boolean> {
    const device = this.#device(volumeId);
    if (!device || !this.#isAt(device)) return false;
    return this.#options.folders.isMountPoint(this.#target(volumeId));
  }

  /** Why requests of its device fail; null: they do not, or there is none. */
  failureOf(volumeId: VolumeId): string | null {
    return this.#device(volumeId)?.failure ?? null;
  }

  /** Mounts it, with a new file system if it has none, and returns the folder for containers. */
  async mount(volume: Volume, call: OpenCall): Promise<string> {
    const { hosts, folders, clock } = this.#options;
    const { fileSystem, formatOptions, mountOptions } = fileSystemOptionsOf(volume.metadata.labels);
    const target = this.#target(volume.metadata.id);
    const order = {
      volume: volume.metadata.id,
      user,
      target,
      ...(fileSystem === undefined ? {} : { fileSystem }),
      ...(formatOptions === undefined ? {} : { formatOptions }),
      ...(mountOptions === undefined ? {} : { options: mountOptions }),
    } as const;
    const begunMs = clock.monotonicMs();
    call.waitsFor('the volume to be attached and mounted');
    for (;;) {
      try {
        await hosts.mount(order, call.signal);
        break;
      } catch (thrown) {
        const error = StorError.from(thrown);
        call.signal.throwIfAborted();
        if (!isWorthWaiting(error, clock.monotonicMs() - begunMs)) throw error;
        call.waitsFor(error.message);
      }
      await pause(clock, lookAgainMs, call.signal);
    }
    const choice = dataFolderChoice(await folders.names(target));
    if (choice === 'root') return target;
    const folder = path.join(target, dataFolderName);
    if (choice === 'make') await folders.make(folder);
    return folder;
  }

  /** Ends the mount of a volume that nobody has counted, and its device. Tried again later if it fails. */
  async clear(volumeId: VolumeId, name: string): Promise<void> {
    try {
      await this.#clear(volumeId);
      this.#timers.get(volumeId)?.();
      this.#timers.delete(volumeId);
    } catch (error) {
      this.#later(volumeId, name, StorError.from(error));
      throw error;
    }
  }

  /** As `clear`, for a caller who has something else to say. */
  async clearOrLater(volumeId: VolumeId, name: string): Promise<void> {
    await this.clear(volumeId, name).catch(() => undefined);
  }

  /** Of what was left mounted under this name. */
  async clearNamed(name: string): Promise<void> {
    const { hosts, book } = this.#options;
    const left = hosts
      .list()
      .filter(({ volume, users }) => volume === name && users.includes(user));
    for (const { volumeId } of left) {
      if (!mountedVolume(book.table, volumeId)) await this.clear(volumeId, name);
    }
  }

  /** In the volume's turn, for nobody who waits for it. */
  inBackground(name: string, work: () => Promise<void>): void {
    const { turns, logger } = this.#options;
    const done = turns.run(name, work).catch((error: unknown) => {
      logger.warn({ volume: name, error: StorError.from(error).message }, 'not unmounted');
    });
    this.#background.add(done);
    void done.then(() => this.#background.delete(done));
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const cancel of this.#timers.values()) cancel();
    this.#timers.clear();
    await Promise.all(this.#background);
  }

  async #clear(volumeId: VolumeId): Promise<void> {
    const { hosts, folders, logger } = this.#options;
    const target = this.#target(volumeId);
    const before = this.#device(volumeId);
    if (before && this.#isAt(before)) await hosts.unmount({ target, user }, this.#always);
    const after = this.#device(volumeId);
    if (after?.users.includes(user)) {
      await hosts.detach({ volume: volumeId, user }, this.#always);
    }
    await folders.removeEmpty(target);
    if (before)
      logger.info({ volume: before.volume }, 'Docker has no mount of the volume any more');
  }

  /** Somebody has files open there, or the cluster cannot be told now. */
  #later(volumeId: VolumeId, name: string, error: StorError): void {
    if (this.#closed) return;
    const { clock, logger, book } = this.#options;
    const isFirst = !this.#timers.has(volumeId);
    this.#timers.get(volumeId)?.();
    const fields = { volume: name, error: error.message };
    if (isFirst) logger.warn(fields, 'a volume stays mounted; it is tried again');
    const again = async (): Promise<void> => {
      if (this.#closed) return;
      if (mountedVolume(book.table, volumeId)) this.#timers.delete(volumeId);
      else await this.clearOrLater(volumeId, name);
    };
    const cancel = clock.after(leftoverRetryMs, () => {
      this.inBackground(name, again);
    });
    this.#timers.set(volumeId, cancel);
  }

  #target(volumeId: VolumeId): string {
    return path.join(this.#options.mountDir, volumeId);
  }

  #device(volumeId: VolumeId): HostDevice | null {
    return this.#options.hosts.list().find((device) => device.volumeId === volumeId) ?? null;
  }

  #isAt({ volumeId, mounts }: HostDevice): boolean {
    const target = this.#target(volumeId);
    return mounts.some((mount) => mount.target === target && mount.user === user);
  }
}

/** A node that was killed looks alive until its lease is over; after that the volume can be taken. */
function isWorthWaiting(error: StorError, waitedMs: number): boolean {
  if (error.code === 'ATTACHED_ELSEWHERE') return waitedMs < nodeLeaseMs + takeOverExtraMs;
  return isPassing(error);
}
