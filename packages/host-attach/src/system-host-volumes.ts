import { dirname, resolve } from 'node:path';
import { StorError, type NodeId } from '@stor/protocol';
import type { Clock, Files, Logger } from '@stor/runtime';
import { ChosenMeans } from './chosen-means.ts';
import { checkMountOrder, checkTarget } from './core/check-order.ts';
import { hostDeviceOf, type DeviceRecord, type MountRecord } from './core/host-records.ts';
import { planReconcile, type DeviceFacts } from './core/plan-reconcile.ts';
import { DeviceKeeper } from './device-keeper.ts';
import { DeviceOrders } from './device-orders.ts';
import type { DeviceProcesses } from './device/device-processes.ts';
import type { HostTls } from './export-addresses.ts';
import type { HostParts } from './host-parts.ts';
import { HostStateFile } from './host-state-file.ts';
import type { AllocationProbe, HostTools } from './host-tools.ts';
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
  WantedMeans,
} from './host-volumes.ts';
import { MountOrders } from './mount-orders.ts';
import { OrderQueue } from './order-queue.ts';
import type { VolumePort } from './volume-port.ts';

export interface SystemHostVolumesOptions {
  volumes: VolumePort;
  processes: DeviceProcesses;
  tools: HostTools;
  allocation: AllocationProbe;
  files: Files;
  /** `host` in the agent's data folder */
  folder: string;
  nodeId: NodeId;
  /** changes with each boot of the host */
  bootId: string;
  /** towards nodes that speak TLS; null: this host has no certificates and keys */
  tls: HostTls | null;
  /** how devices are made; `auto` unless given */
  means?: WantedMeans;
  clock: Clock;
  logger: Logger;
}

/** Volumes as devices and mounts of the host that this process runs on; see HostVolumes. */
export class SystemHostVolumes implements HostVolumes {
  readonly #parts: HostParts;
  readonly #queue = new OrderQueue();
  readonly #devices: DeviceOrders;
  readonly #mounts: MountOrders;
  readonly #keeper: DeviceKeeper;
  /** targets of orders to mount that have begun, as they were given, with the volume: orders to unmount come after */
  readonly #targets = new Map<string, Promise<string>>();
  #closing: Promise<void> | null = null;

  private constructor(parts: HostParts) {
    this.#parts = parts;
    this.#devices = new DeviceOrders(parts);
    this.#mounts = new MountOrders(parts, this.#devices);
    const orders = { devices: this.#devices, mounts: this.#mounts };
    this.#keeper = new DeviceKeeper({ parts, queue: this.#queue, ...orders });
  }

  /**
   * Finds again what an agent before this one has made. What that one did not end is ended in the
   * background, as the control plane may not answer yet. FOREIGN_DATA (see HostStateFile).
   */
  static async open(options: SystemHostVolumesOptions): Promise<SystemHostVolumes> {
    const { bootId, means: wanted = 'auto', ...rest } = options;
    const { files, folder, tools, logger } = rest;
    const file = HostStateFile.open(files, folder, bootId);
    const means = new ChosenMeans(wanted, { tools, logger });
    const parts: HostParts = { ...rest, means, file, failures: new Map() };
    const host = new SystemHostVolumes(parts);
    const isSameBoot = file.state.bootId === bootId;
    const found = isSameBoot ? file.devices.map((record) => host.#factsOf(record)) : [];
    const devices = new Map(await Promise.all(found));
    const plan = planReconcile(file.state, { bootId, mounts: await tools.mounts(), devices });
    for (const note of plan.notes) logger.warn({}, note);
    file.replace(plan.state);
    host.#keeper.start();
    return host;
  }

  async #factsOf(record: DeviceRecord): Promise<[string, DeviceFacts]> {
    const { tools, failures } = this.#parts;
    const signal = new AbortController().signal;
    const process = await this.#devices.look(record, signal).catch((error: unknown) => {
      // one that lives and does not answer must not keep the agent from starting
      failures.set(record.id, StorError.from(error).message);
      return null;
    });
    const number = record.path === '' ? null : await tools.deviceNumber(record.path);
    return [record.id, { process, number }];
  }

  async attach(order: AttachOrder, signal: AbortSignal): Promise<HostDevice> {
    const { volume, user, readOnly = false } = order;
    const key = await this.#keyOf(volume, signal);
    return this.#queue.run(key, signal, async () =>
      this.#shown(await this.#devices.attach({ volume, user, readOnly }, signal)),
    );
  }

  async detach(order: DetachOrder, signal: AbortSignal): Promise<void> {
    const { volume } = order;
    // what is here can be ended without the control plane, and of a volume that is gone
    const key = await this.#keyOf(volume, signal).catch(() => volume);
    await this.#queue.run(key, signal, async () => {
      const record = this.#parts.file.find(key);
      if (record) await this.#devices.detach(record, order, signal);
    });
  }

  async mount(order: MountOrder, signal: AbortSignal): Promise<HostMount> {
    checkMountOrder(order);
    const given = resolve(order.target);
    const finding = this.#keyOf(order.volume, signal);
    this.#targets.set(given, finding);
    try {
      return await this.#queue.run(await finding, signal, async () => {
        const target = await this.#placeOf(order);
        return shownMount(await this.#mounts.mount(order, target, signal));
      });
    } finally {
      if (this.#targets.get(given) === finding) this.#targets.delete(given);
    }
  }

  /** Where links lead to counts. INVALID_ARGUMENT: what a volume must not lie over. */
  async #placeOf({ target }: MountOrder): Promise<string> {
    const { tools, folder } = this.#parts;
    const place = await tools.realTarget(target);
    checkTarget(place);
    const data = await tools.realTarget(dirname(folder));
    if (data !== place && !data.startsWith(`${place}/`)) return place;
    throw new StorError(
      'INVALID_ARGUMENT',
      `target ${JSON.stringify(target)} would hide ${data}, where this agent has its data: choose another directory`,
    );
  }

  async unmount(
    order: { target: string; user: DeviceUser; keepAttached?: boolean },
    signal: AbortSignal,
  ): Promise<void> {
    checkTarget(order.target);
    const begun = this.#targets.get(resolve(order.target));
    const target = await this.#parts.tools.realTarget(order.target);
    const key = this.#recordAt(target)?.volumeId ?? (await begun?.catch(() => undefined));
    if (key === undefined) return;
    await this.#queue.run(key, signal, async () => {
      const record = this.#recordAt(target);
      if (record) await this.#mounts.unmount(record, { ...order, target }, signal);
    });
  }

  async grow(volume: string, signal: AbortSignal): Promise<HostDevice> {
    const { file, volumes } = this.#parts;
    const record = file.find(volume);
    if (record?.phase !== 'ready') throw notHere(volume);
    return this.#queue.run(record.volumeId, signal, async () => {
      const now = file.byId(record.id);
      if (now?.phase !== 'ready') throw notHere(volume);
      const { spec } = await volumes.getVolume({ name: now.volumeId }, { signal });
      return this.#shown(await this.#mounts.grow(now, spec.sizeBytes, signal));
    });
  }

  async stats(target: string): Promise<MountStats> {
    checkTarget(target);
    const { tools } = this.#parts;
    const real = await tools.realTarget(target);
    if (this.#recordAt(real)) return tools.stats(real);
    throw new StorError('NOT_FOUND', `nothing of Stor is mounted at ${target}`);
  }

  list(): readonly HostDevice[] {
    return this.#parts.file.devices
      .filter(({ phase }) => phase === 'ready')
      .map((record) => this.#shown(record));
  }

  async checks(signal: AbortSignal): Promise<HostCheck[]> {
    const { tools, means } = this.#parts;
    return tools.checks(await means.next(), signal);
  }

  /** Looks after all devices now, as it does every few seconds. */
  look(): Promise<void> {
    return this.#keeper.lookAgain();
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.#keeper.close();
    await this.#queue.close();
  }

  /** Orders go one after another for each volume, whether they name it by its name or its id. */
  async #keyOf(volume: string, signal: AbortSignal): Promise<string> {
    const { file, volumes } = this.#parts;
    const known = file.find(volume);
    if (known) return known.volumeId;
    const { metadata } = await volumes.getVolume({ name: volume }, { signal });
    return metadata.id;
  }

  #recordAt(target: string): DeviceRecord | null {
    const { devices } = this.#parts.file;
    return devices.find(({ mounts }) => mounts.some((mount) => mount.target === target)) ?? null;
  }

  #shown(record: DeviceRecord): HostDevice {
    return hostDeviceOf(record, this.#parts.failures.get(record.id) ?? null);
  }
}

function shownMount({ target, fileSystem, readOnly, options, user }: MountRecord): HostMount {
  return { target, fileSystem, readOnly, options: [...options], user };
}

function notHere(volume: string): StorError {
  return new StorError('NOT_FOUND', `volume ${volume} is no device of this host`);
}
