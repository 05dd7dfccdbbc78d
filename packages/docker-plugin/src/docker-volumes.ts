import type { HostVolumes } from '@stor/host-attach';
import { checkVolumeName, hasCode, StorError } from '@stor/protocol';
import type { StorApi, Volume } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import { isPassing, pause } from './again.ts';
import { dockerVolume, holders, isThere, type DockerVolume } from './core/docker-volume.ts';
import { lookAgainMs, longCallMs } from './core/limits.ts';
import { mountedByName, mountedVolume, type MountedVolume } from './core/mount-table.ts';
import { differences } from './core/volume-differences.ts';
import { checkCloneOptions, cloneOrder, createOrder } from './core/volume-orders.ts';
import { parseVolumeOptions, type VolumeOptions } from './core/volume-options.ts';
import { HostMounts } from './host-mounts.ts';
import { LostAnswers } from './lost-answers.ts';
import type { MountBook } from './mount-book.ts';
import type { MountedFolders } from './mounted-folders.ts';
import type { OpenCall } from './open-call.ts';
import { VolumeTurns } from './volume-turns.ts';

/** What the plug-in asks of the control plane: the public API, and no more of it. */
export type VolumeApi = Pick<
  StorApi,
  'createVolume' | 'cloneVolume' | 'getVolume' | 'listVolumes' | 'deleteVolume'
>;

export interface DockerVolumesOptions {
  api: VolumeApi;
  hosts: HostVolumes;
  folders: MountedFolders;
  book: MountBook;
  /** each volume is mounted in a folder of it */
  mountDir: string;
  /** for what `-o` does not say, when a volume is made */
  defaults: VolumeOptions;
  clock: Clock;
  logger: Logger;
}

/** What `VolumeDriver` does, one method for each call; all may be repeated. Errors are for people. */
export class DockerVolumes {
  readonly #options: DockerVolumesOptions;
  readonly #book: MountBook;
  readonly #turns = new VolumeTurns();
  readonly #lost: LostAnswers;
  readonly #host: HostMounts;

  constructor(options: DockerVolumesOptions) {
    this.#options = options;
    this.#book = options.book;
    this.#lost = new LostAnswers(options.clock);
    this.#host = new HostMounts({ ...options, turns: this.#turns });
  }

  /** Makes the table and what is mounted agree. Before the first call. */
  async reconcile(): Promise<void> {
    await this.#host.reconcile();
  }

  async create(
    name: string,
    given: Readonly<Record<string, string>>,
    call: OpenCall,
  ): Promise<void> {
    checkVolumeName(name);
    const options = parseVolumeOptions(given);
    checkCloneOptions(options);
    await this.#inTurn(name, call, async () => {
      for (;;) {
        const found = await this.#find(name, call);
        if (found && isThere(found)) return checkSame(name, options, found);
        if (found) {
          call.waitsFor(`the volume, which is ${found.status.health}`);
        } else if (await this.#make(name, options, call)) {
          return;
        }
        await pause(this.#options.clock, lookAgainMs, call.signal);
      }
    });
  }

  /** One that does not exist is removed already. */
  async remove(name: string, call: OpenCall): Promise<void> {
    await this.#inTurn(name, call, async () => {
      const used = mountedByName(this.#book.table, name);
      if (used) throw usedHere(used);
      await this.#host.clearNamed(name);
      while (!(await this.#delete(name, call))) {
        await pause(this.#options.clock, lookAgainMs, call.signal);
      }
    });
  }

  /** Answers where the volume's data is for containers. */
  async mount(name: string, callerId: string, call: OpenCall): Promise<void> {
    await this.#inTurn(name, call, async () => {
      const isRepeated = this.#lost.take('mount', name, callerId);
      let mountpoint: string;
      try {
        const here = await this.#mountHere(name, call);
        const counted = mountedVolume(this.#book.table, here.volumeId)?.mounts.get(callerId) ?? 0;
        if (!isRepeated || counted === 0) this.#book.mounted(here, callerId);
        ({ mountpoint } = here);
      } catch (error) {
        // Docker will not unmount what it was not given; what cannot end now is tried again
        if (isRepeated) await this.#uncount(name, callerId).catch(() => undefined);
        await this.#host.clearNamed(name).catch(() => undefined);
        throw error;
      }
      if (await call.answer({ Mountpoint: mountpoint, Err: '' })) return;
      // it ends, unless Docker asks once more
      this.#lost.note('mount', name, callerId, () => {
        this.#host.inBackground(name, () => this.#uncount(name, callerId));
      });
    });
  }

  /** An unknown caller has unmounted already. */
  async unmount(name: string, callerId: string, call: OpenCall): Promise<void> {
    await this.#inTurn(name, call, async () => {
      const known = mountedByName(this.#book.table, name, callerId);
      if (!known?.mounts.has(callerId)) {
        await this.#host.clearNamed(name).catch(() => undefined);
      } else if (!this.#lost.take('unmount', name, callerId)) {
        // dockerd unmounts what it believes not to have been mounted: then that one is over
        this.#lost.take('mount', name, callerId);
        call.waitsFor('the volume to be unmounted and its device to be detached, which goes on');
        await this.#uncount(name, callerId);
      }
      if (await call.answer({ Err: '' })) return;
      // when Docker asks once more, it must not be counted again
      const isMounted = mountedByName(this.#book.table, name, callerId)?.mounts.has(callerId);
      if (isMounted) this.#lost.note('unmount', name, callerId, () => undefined);
    });
  }

  /** '' while it is not mounted on this host. */
  path(name: string): string {
    return mountedByName(this.#book.table, name)?.mountpoint ?? '';
  }

  /** NOT_FOUND */
  async get(name: string, call: OpenCall): Promise<DockerVolume> {
    try {
      const volume = await this.#findOnce(name, call.signal);
      if (volume && isThere(volume)) return this.#shown(volume);
    } catch (error) {
      // dockerd forgets a volume that it is not told of, and it is used here
      const known = mountedByName(this.#book.table, name);
      if (!known || !isPassing(StorError.from(error))) throw error;
      return mountedOnly(known, StorError.from(error));
    }
    throw notFound(name);
  }

  /** All volumes of the cluster, whoever made them: any of them can be used here. */
  async list(call: OpenCall): Promise<DockerVolume[]> {
    const { volumes } = await this.#options.api.listVolumes({}, { signal: call.signal });
    return volumes.filter(isThere).map((volume) => this.#shown(volume));
  }

  /** Calls must have ended. What is mounted stays so. */
  async close(): Promise<void> {
    await this.#host.close();
    for (const { name, callerId } of this.#lost.takeAllMounts()) {
      // the next agent unmounts it, or counts it when Docker asks once more
      const known = mountedByName(this.#book.table, name, callerId);
      if (known) this.#book.unmounted(known.volumeId, callerId);
    }
  }

  #inTurn<T>(name: string, call: OpenCall, work: () => Promise<T>): Promise<T> {
    call.waitsFor('an earlier call for this volume');
    return this.#turns.run(name, async () => {
      call.signal.throwIfAborted();
      call.waitsFor('the control plane');
      return work();
    });
  }

  async #mountHere(name: string, call: OpenCall): Promise<Omit<MountedVolume, 'mounts'>> {
    const known = mountedByName(this.#book.table, name);
    if (known) {
      const failure = this.#host.failureOf(known.volumeId);
      if (failure !== null) throw fails(known, failure);
      // needs no control plane: containers start while there is no quorum
      if (await this.#host.isMounted(known.volumeId)) return known;
    }
    const volume = await this.#ready(name, call);
    const { id } = volume.metadata;
    // one that nobody uses is made anew
    if (!known && this.#host.failureOf(id) !== null) await this.#host.clear(id, name);
    const mountpoint = await this.#host.mount(volume, call);
    return { volumeId: volume.metadata.id, name, mountpoint };
  }

  /** One mount less; the last one ends with the device. */
  async #uncount(name: string, callerId: string): Promise<void> {
    const known = mountedByName(this.#book.table, name, callerId);
    const count = known?.mounts.get(callerId) ?? 0;
    if (!known || count === 0) return;
    // before the mount goes: after a kill between the two, what nobody has counted is unmounted
    this.#book.unmounted(known.volumeId, callerId);
    if (mountedVolume(this.#book.table, known.volumeId)) return;
    await this.#host.clear(known.volumeId, name);
  }

  /** Waits while it is made. NOT_FOUND */
  async #ready(name: string, call: OpenCall): Promise<Volume> {
    for (;;) {
      const volume = await this.#find(name, call);
      if (!volume || volume.status.health === 'deleting') throw notFound(name);
      if (isThere(volume)) return volume;
      call.waitsFor('the volume, which is creating');
      await pause(this.#options.clock, lookAgainMs, call.signal);
    }
  }

  /** False: it has to be looked at once more. */
  async #make(name: string, options: VolumeOptions, call: OpenCall): Promise<boolean> {
    const { api, defaults, logger } = this.#options;
    const { signal } = call;
    const { from } = options;
    call.waitsFor('its replicas');
    try {
      if (from) {
        const source = await api.getVolume({ name: from.volume }, { signal });
        const order = cloneOrder(name, { ...options, from }, source, defaults);
        await api.cloneVolume(order, { signal, timeoutMs: longCallMs });
      } else {
        const order = createOrder(name, options, defaults);
        await api.createVolume(order, { signal, timeoutMs: longCallMs });
      }
    } catch (thrown) {
      const error = StorError.from(thrown);
      call.signal.throwIfAborted();
      if (error.code !== 'ALREADY_EXISTS' && !isPassing(error)) throw error;
      call.waitsFor(error.message);
      return false;
    }
    logger.info({ volume: name }, 'Docker has made a volume');
    return true;
  }

  /** False: whether it is deleted must be looked at once more. */
  async #delete(name: string, call: OpenCall): Promise<boolean> {
    const { api, logger } = this.#options;
    const volume = await this.#find(name, call);
    if (!volume || volume.status.health === 'deleting') return true;
    if (volume.status.publications.length > 0) throw usedElsewhere(volume);
    try {
      await api.deleteVolume({ name: volume.metadata.id }, { signal: call.signal });
    } catch (thrown) {
      const error = StorError.from(thrown);
      call.signal.throwIfAborted();
      if (error.code !== 'NOT_FOUND' && !isPassing(error)) throw error;
      call.waitsFor(error.message);
      return error.code === 'NOT_FOUND';
    }
    logger.info({ volume: name }, 'Docker has removed a volume');
    return true;
  }

  /** As long as the cluster cannot say it, it is asked again. */
  async #find(name: string, call: OpenCall): Promise<Volume | null> {
    for (;;) {
      try {
        return await this.#findOnce(name, call.signal);
      } catch (thrown) {
        const error = StorError.from(thrown);
        call.signal.throwIfAborted();
        if (!isPassing(error)) throw error;
        call.waitsFor(error.message);
      }
      await pause(this.#options.clock, lookAgainMs, call.signal);
    }
  }

  async #findOnce(name: string, signal: AbortSignal): Promise<Volume | null> {
    try {
      const volume = await this.#options.api.getVolume({ name }, { signal });
      // an id names another volume than Docker means
      return volume.metadata.name === name ? volume : null;
    } catch (error) {
      if (hasCode(error, 'NOT_FOUND')) return null;
      throw error;
    }
  }

  #shown(volume: Volume): DockerVolume {
    const mountpoint = mountedVolume(this.#book.table, volume.metadata.id)?.mountpoint ?? '';
    const createdAt = new Date(volume.metadata.createdAtMs).toISOString();
    return dockerVolume(volume, mountpoint, createdAt);
  }
}

function checkSame(name: string, options: VolumeOptions, volume: Volume): void {
  const found = differences(options, volume);
  if (found.length === 0) return;
  throw new StorError(
    'ALREADY_EXISTS',
    `volume ${name} exists and is not what was asked for (${found.join('; ')}): leave these options out to use it as it is, or choose another name`,
  );
}

function notFound(name: string): StorError {
  return new StorError('NOT_FOUND', `volume ${JSON.stringify(name)} does not exist`);
}

/** Ids that an error names; the others are only counted. */
const idsNamed = 3;

function usedHere({ name, mounts }: MountedVolume): StorError {
  const ids = [...mounts.keys()].slice(0, idsNamed).map((id) => id.slice(0, 12));
  const more = mounts.size > idsNamed ? ' …' : '';
  const who = mounts.size === 1 ? '1 container uses' : `${mounts.size} containers use`;
  return new StorError(
    'FAILED_PRECONDITION',
    `volume ${name} is in use: ${who} it on this host (mount ids ${ids.join(', ')}${more}); stop them first`,
  );
}

function fails({ name }: MountedVolume, failure: string): StorError {
  return new StorError(
    'FAILED_PRECONDITION',
    `volume ${name} is mounted on this host and its device fails (${failure}): stop the containers that use it here; after the last of them it is attached anew`,
  );
}

function usedElsewhere(volume: Volume): StorError {
  const { name } = volume.metadata;
  const owners = volume.status.publications
    .map(({ owner }) => owner)
    .filter((owner) => owner !== '');
  const by = owners.length === 0 ? '' : ` by ${[...new Set(owners)].join(', ')}`;
  return new StorError(
    'FAILED_PRECONDITION',
    `volume ${name} is in use on node ${holders(volume).join(', ')}${by}: stop what uses it there first; what is left of a host that is gone for good ends with "storctl volume unpublish ${name}"`,
  );
}

function mountedOnly({ name, mountpoint }: MountedVolume, error: StorError): DockerVolume {
  return {
    Name: name,
    Mountpoint: mountpoint,
    Status: { health: 'unknown', message: error.message },
  };
}
