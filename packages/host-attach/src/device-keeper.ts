import { hasCode, publishedExportName, StorError, type Node, type Volume } from '@stor/protocol';
import { nbdPlaces } from './core/device-addresses.ts';
import type { DeviceRecord } from './core/host-records.ts';
import { leftAction } from './core/plan-reconcile.ts';
import type { DeviceOrders } from './device-orders.ts';
import { exportAddresses } from './export-addresses.ts';
import type { HostParts } from './host-parts.ts';
import type { MountOrders } from './mount-orders.ts';
import type { OrderQueue } from './order-queue.ts';

/** How often devices are looked at: nodes come and go, volumes grow, processes die (ms). */
const lookEveryMs = 5_000;
/** What one look may take for one device (ms). */
const lookMs = 60_000;

interface KeeperOptions {
  parts: HostParts;
  queue: OrderQueue;
  devices: DeviceOrders;
  mounts: MountOrders;
}

/**
 * Looks after the devices of this host between orders: tells them where nodes are, makes them as large
 * as their volumes, sees whether they work, and ends orders that were cut off.
 */
export class DeviceKeeper {
  readonly #options: KeeperOptions;
  readonly #closing = new AbortController();
  /** what each device was told last, by id */
  readonly #told = new Map<string, string>();
  /** the last trouble of each volume: the same one is not logged again and again */
  readonly #troubles = new Map<string, string>();
  #cancel: () => void = () => {};
  #looking: Promise<void> | null = null;

  constructor(options: KeeperOptions) {
    this.#options = options;
  }

  start(): void {
    void this.look();
  }

  /** Looks at every device once; a look that is under way is enough. Never fails. */
  look(): Promise<void> {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = null;
      this.#cancel();
      if (this.#closing.signal.aborted) return;
      this.#cancel = this.#options.parts.clock.after(lookEveryMs, () => void this.look());
    });
    return this.#looking;
  }

  /** As `look`; begins after the one that is under way. */
  async lookAgain(): Promise<void> {
    await this.#looking;
    await this.look();
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#cancel();
    await this.#looking;
  }

  async #look(): Promise<void> {
    const { file } = this.#options.parts;
    const nodes = file.devices.length > 0 ? await this.#nodes() : null;
    await Promise.all(file.devices.map((record) => this.#lookAt(record, nodes)));
    for (const id of this.#told.keys()) if (!file.byId(id)) this.#told.delete(id);
  }

  /** Null when nobody can say now. */
  async #nodes(): Promise<Node[] | null> {
    const { volumes } = this.#options.parts;
    try {
      return (await volumes.listNodes({}, { signal: this.#closing.signal })).nodes;
    } catch {
      return null;
    }
  }

  async #lookAt({ id, volumeId, volume }: DeviceRecord, nodes: Node[] | null): Promise<void> {
    const { parts, queue } = this.#options;
    // an order is at work, which looks for itself
    if (!queue.isIdle(volumeId)) return;
    const signal = AbortSignal.any([this.#closing.signal, AbortSignal.timeout(lookMs)]);
    try {
      await queue.run(volumeId, signal, () => this.#tend(id, nodes, signal));
      this.#troubles.delete(volumeId);
    } catch (error) {
      const { message } = StorError.from(error);
      if (this.#closing.signal.aborted || this.#troubles.get(volumeId) === message) return;
      this.#troubles.set(volumeId, message);
      parts.logger.warn({ volume, error: message }, 'a device was not looked after');
    }
  }

  async #tend(id: string, nodes: Node[] | null, signal: AbortSignal): Promise<void> {
    const { parts, devices, mounts } = this.#options;
    await this.#finishLeft(id, signal);
    const record = parts.file.byId(id);
    if (record?.phase !== 'ready') return;
    const state = await devices.look(record, signal);
    if (!state) return;
    const volume = await this.#volume(record, signal);
    if (!volume) return;
    if (nodes) await this.#tellAddresses(record, nodes, volume, signal);
    const { sizeBytes } = volume.spec;
    if (sizeBytes > record.sizeBytes || mounts.needsGrowth(record)) {
      await mounts.grow(record, sizeBytes, signal);
    }
  }

  /** Null while the control plane is away. */
  async #volume(record: DeviceRecord, signal: AbortSignal): Promise<Volume | null> {
    const { volumes } = this.#options.parts;
    try {
      return await volumes.getVolume({ name: record.volumeId }, { signal });
    } catch (error) {
      if (hasCode(error, 'UNAVAILABLE', 'TIMEOUT')) return null;
      throw error;
    }
  }

  /** What an order that was cut off has left; each step leaves less. */
  async #finishLeft(id: string, signal: AbortSignal): Promise<void> {
    const { parts, devices, mounts } = this.#options;
    for (;;) {
      const record = parts.file.byId(id);
      const action = record && leftAction(record);
      if (!action) return;
      if (action.type === 'end') {
        await devices.end(record, signal);
        return;
      }
      if (action.type === 'leave') {
        await devices.leave(record, record, action.user, signal);
        return;
      }
      if (action.type === 'undo-mount') await mounts.undoMount(record, action.mount, signal);
      else await mounts.finishUnmount(record, action.mount, signal);
    }
  }

  async #tellAddresses(
    record: DeviceRecord,
    nodes: Node[],
    { status }: Volume,
    signal: AbortSignal,
  ): Promise<void> {
    const { nodeId, tls, processes, folder } = this.#options.parts;
    const { id, publication, volume } = record;
    const exportName = publishedExportName(publication ?? '', volume);
    const addresses = exportAddresses(nbdPlaces(nodes, nodeId, status), exportName, tls);
    const text = `${publication ?? ''} ${JSON.stringify(addresses)}`;
    if (addresses.length === 0 || this.#told.get(id) === text) return;
    await processes.setAddresses(id, folder, addresses, signal);
    this.#told.set(id, text);
  }
}
