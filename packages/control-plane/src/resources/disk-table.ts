import type { DiskId, NodeId } from '@stor/protocol';
import type { Versioned } from './cluster-state.ts';
import type { DiskRecord } from './records.ts';

type Disk = Versioned<DiskRecord>;

/**
 * Disks by id that know which node has which. A map, so that whoever puts a state together from parts
 * of others takes the index along with what it is an index of.
 */
export class DiskTable extends Map<DiskId, Disk> {
  readonly #byNode = new Map<NodeId, Set<DiskId>>();

  constructor(disks: Iterable<readonly [DiskId, Disk]> = []) {
    // the base class would fill itself before the index is there
    super();
    for (const [id, disk] of disks) this.set(id, disk);
  }

  override set(id: DiskId, disk: Disk): this {
    this.#forget(id);
    super.set(id, disk);
    addTo(this.#byNode, disk.value.nodeId, id);
    return this;
  }

  override delete(id: DiskId): boolean {
    this.#forget(id);
    return super.delete(id);
  }

  override clear(): void {
    super.clear();
    this.#byNode.clear();
  }

  idsOn(nodeId: NodeId): ReadonlySet<DiskId> {
    return this.#byNode.get(nodeId) ?? none;
  }

  #forget(id: DiskId): void {
    const disk = this.get(id);
    if (disk) removeFrom(this.#byNode, disk.value.nodeId, id);
  }
}

const none: ReadonlySet<string> = new Set();

export function addTo(index: Map<string, Set<string>>, key: string, id: string): void {
  const ids = index.get(key);
  if (ids) ids.add(id);
  else index.set(key, new Set([id]));
}

export function removeFrom(index: Map<string, Set<string>>, key: string, id: string): void {
  const ids = index.get(key);
  if (!ids?.delete(id)) return;
  if (ids.size === 0) index.delete(key);
}
