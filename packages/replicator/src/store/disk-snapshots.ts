import { chunkBytes, regionBytes, type SnapshotId, StorError } from '@stor/protocol';
import { Bitmap } from '../core/replication/bitmap.ts';
import type { LayerImage } from '../core/store/layer-image.ts';
import { type Layer, maxSnapshotIdLength } from '../core/store/layer-table.ts';
import { hidden } from '../core/store/lineage-tables.ts';
import { spaceShares } from '../core/store/space-share.ts';
import type { ReplicaTables } from '../core/store/replica-tables.ts';
import type { ReplicaSnapshot, ReplicaSpace } from '../replica-snapshots.ts';
import type { StoreDone } from '../replica-store.ts';
import type { ImageCallParts } from './image-calls.ts';
import type { Lineage } from './lineage.ts';
import type { LayerJanitor } from './layer-janitor.ts';
import type { ReplicaFailure } from './replica-failure.ts';
import { SnapshotView } from './snapshot-view.ts';

/** Flat images of snapshots that are kept ready; each takes 4 bytes per chunk. */
const maxIdleImages = 4;

export interface DiskSnapshotsParts {
  calls: Omit<ImageCallParts, 'image' | 'hot'>;
  live: LayerImage;
  janitor: LayerJanitor;
  failure: ReplicaFailure;
  answer(done: StoreDone, error: StorError): void;
}

/** The snapshots of one replica: each is a layer of its lineage. */
export class DiskSnapshots {
  readonly #parts: DiskSnapshotsParts;
  readonly #tables: ReplicaTables;
  readonly #lineage: Lineage;
  readonly #views = new Map<SnapshotId, SnapshotView>();
  /** least recently used first */
  readonly #images = new Map<SnapshotId, LayerImage>();
  #drained = false;

  constructor(parts: DiskSnapshotsParts) {
    this.#parts = parts;
    this.#tables = parts.calls.tables;
    this.#lineage = parts.calls.lineage;
  }

  list(): ReplicaSnapshot[] {
    const { tables } = this.#lineage;
    const own = [...tables.layers.layers.values()].filter((layer) => this.#isOwn(layer));
    own.sort((a, b) => a.serial - b.serial);
    return own.map((layer) => ({
      snapshotId: layer.snapshotId,
      state: layer.state,
      epoch: layer.epoch,
      sizeBytes: layer.sizeBytes,
      parent: this.#snapshotBelow(layer),
      ownBytes: tables.dataSlotsOf(layer.place) * chunkBytes,
    }));
  }

  get headParent(): SnapshotId | null {
    const head = this.#lineage.tables.layers.get(this.#parts.live.top);
    return head && this.#snapshotBelow(head);
  }

  #isOwn(layer: Layer): boolean {
    return layer.kind === 'snapshot' && layer.replica === this.#tables.number;
  }

  #snapshotBelow(layer: Layer): SnapshotId | null {
    const { layers } = this.#lineage.tables;
    let at = layers.get(layer.parent);
    while (at && !this.#isOwn(at)) at = layers.get(at.parent);
    return at?.snapshotId ?? null;
  }

  #planned(id: SnapshotId): Layer | null {
    return this.#lineage.tables.plannedSnapshot(this.#tables.number, id);
  }

  #applied(id: SnapshotId): Layer | null {
    for (const layer of this.#lineage.tables.layers.layers.values()) {
      if (layer.snapshotId === id && this.#isOwn(layer)) return layer;
    }
    return null;
  }

  /** Every write that is part of it has ended, and none of a later one has begun. */
  async take(id: SnapshotId, epoch: number, kind: 'prepared' | 'incomplete'): Promise<void> {
    checkId(id);
    const { tables } = this.#lineage;
    await this.#lineage.ensureLayer();
    if (epoch < this.#tables.highestEpoch) {
      throw new StorError(
        'STALE_EPOCH',
        `${this.#name} refuses snapshot ${id} of epoch ${epoch}: it has seen epoch ${this.#tables.highestEpoch}`,
        { details: { highestEpoch: String(this.#tables.highestEpoch) } },
      );
    }
    const existing = this.#planned(id);
    if (existing) {
      if (existing.state === kind) return this.#settled();
      throw new StorError(
        'ALREADY_EXISTS',
        `${this.#name} has snapshot ${id} already, and it is ${existing.state}`,
      );
    }
    const head = this.#head();
    const { sizeBytes } = this.#tables.identity;
    const frozen = { kind: 'snapshot', snapshotId: id, state: kind, epoch, sizeBytes } as const;
    const next = this.#newHead(tables.freePlace(), head.place);
    await this.#change([
      { place: head.place, layer: { ...head, ...frozen } },
      { place: next.place, layer: next },
    ]);
  }

  #head(): Layer {
    const head = this.#lineage.tables.plannedHead(this.#tables.number);
    if (!head) throw new StorError('DISK_FAILED', `${this.#name} has no head layer`);
    return head;
  }

  #newHead(place: number, parent: number): Layer {
    const serial = this.#lineage.tables.nextSerial();
    return newHead({ place, parent, replica: this.#tables.number, serial });
  }

  #change(changes: { place: number; layer: Layer | null }[]): Promise<void> {
    const lineage = this.#lineage;
    return lineage.durable(lineage.append({ type: 'layers', lineage: lineage.number, changes }));
  }

  /** What an earlier call has asked for is durable. */
  #settled(): Promise<void> {
    return this.#lineage.durable(this.#parts.calls.journal.lastLsn);
  }

  /** Its data have been synced. One that turns out to be shorter is looked at anew from then on. */
  async confirm(id: SnapshotId, mostBytes = Infinity): Promise<void> {
    await this.#views.get(id)?.idle();
    const known = this.#planned(id);
    if (known && known.state !== 'ready' && known.sizeBytes > mostBytes) await this.#leave(id);
    const layer = this.#planned(id);
    if (!layer) throw this.#notFound(id);
    if (layer.state === 'ready') return this.#settled();
    const sizeBytes = Math.min(layer.sizeBytes, mostBytes);
    await this.#change([{ place: layer.place, layer: { ...layer, state: 'ready', sizeBytes } }]);
    // here no write is held
    await this.#lineage.growInGoodTime();
  }

  /** No call is under way on it, and its image is built anew for the next. */
  async #leave(id: SnapshotId): Promise<void> {
    await this.#views.get(id)?.close();
    this.#views.delete(id);
    this.#forget(id);
  }

  async drop(id: SnapshotId): Promise<void> {
    await this.#leave(id);
    const layer = this.#planned(id);
    if (!layer) return this.#settled();
    await this.#change([{ place: layer.place, layer: hidden(layer) }]);
    this.#parts.janitor.kick();
  }

  /** No other call of the replica is under way. */
  async rollback(id: SnapshotId, cooled: () => void): Promise<void> {
    const lineage = this.#lineage;
    await lineage.ensureLayer();
    const target = this.#planned(id);
    if (!target) throw this.#notFound(id);
    if (target.state === 'incomplete') {
      throw new StorError(
        'FAILED_PRECONDITION',
        `snapshot ${id} of ${this.#name} is not complete: wait until it has been filled`,
      );
    }
    const { live, calls } = this.#parts;
    const then = lineage.tables.imageOf(target.place, live.sizeBytes);
    const marks = new Set<number>();
    eachDifference(then, live, (chunk) => {
      const region = Math.floor((chunk * chunkBytes) / regionBytes);
      this.#tables.use(region);
      if (!this.#tables.isMarked(region)) marks.add(region);
    });
    const regions = Uint32Array.from(marks);
    for (let i = 0; i < regions.length; i += calls.maxRecordNumbers) {
      const part = regions.slice(i, i + calls.maxRecordNumbers);
      calls.journal.append({ type: 'mark', replica: this.#tables.number, regions: part });
    }
    const head = this.#head();
    const next = this.#newHead(lineage.tables.freePlace(), target.place);
    await this.#change([
      { place: head.place, layer: hidden(head) },
      { place: next.place, layer: next },
    ]);
    cooled();
    this.#parts.janitor.kick();
  }

  changedChunks(from: SnapshotId | null, to: SnapshotId | null): Bitmap | null {
    const a = from === null ? null : this.#imageOf(from);
    const b = to === null ? this.#parts.live : this.#imageOf(to);
    if (!b || (from !== null && !a)) return null;
    const changed = new Bitmap(Math.max(a?.chunkCount ?? 0, b.chunkCount));
    eachDifference(a, b, (chunk) => {
      changed.add(chunk);
    });
    return changed;
  }

  /**
   * None of a snapshot whose removal is on its way into the journal: what would be written to its layer
   * would come to lie in one that nobody sees, or that is gone.
   */
  view(id: SnapshotId): SnapshotView | null {
    if (this.#drained) return null;
    const existing = this.#views.get(id);
    if (existing) return existing;
    const layer = this.#planned(id) && this.#applied(id);
    if (!layer) return null;
    const view = new SnapshotView({
      snapshotId: id,
      sizeBytes: layer.sizeBytes,
      name: this.#name,
      calls: this.#parts.calls,
      failure: this.#parts.failure,
      image: () => {
        const image = this.#imageOf(id);
        if (!image) throw this.#notFound(id);
        return image;
      },
      // a resync completes one that its replica had prepared when it was lost, too
      isIncomplete: () => this.#planned(id)?.state !== 'ready',
      answer: (done, error) => {
        this.#parts.answer(done, error);
      },
      ended: () => {
        this.#trim();
      },
    });
    this.#views.set(id, view);
    return view;
  }

  #imageOf(id: SnapshotId): LayerImage | null {
    const known = this.#images.get(id);
    if (known) {
      this.#images.delete(id);
      this.#images.set(id, known);
      return known;
    }
    const layer = this.#applied(id);
    if (!layer) return null;
    const image = this.#lineage.tables.imageOf(layer.place, layer.sizeBytes);
    this.#lineage.tables.views.add(image);
    this.#images.set(id, image);
    this.#trim();
    return image;
  }

  /** Images beyond a few go, the least recently used first; one that is worked on stays. */
  #trim(): void {
    for (const id of this.#images.keys()) {
      if (this.#images.size <= maxIdleImages) return;
      if (this.#views.get(id)?.busy !== true) this.#forget(id);
    }
  }

  #forget(id: SnapshotId): void {
    const image = this.#images.get(id);
    if (!image) return;
    this.#images.delete(id);
    this.#lineage.tables.views.delete(image);
  }

  /** Refuses calls on views from now on and waits for those under way. */
  async drain(): Promise<void> {
    this.#drained = true;
    await Promise.all([...this.#views.values()].map((view) => view.close()));
    for (const id of [...this.#images.keys()]) this.#forget(id);
  }

  space(): ReplicaSpace {
    const { tables, supply } = this.#lineage;
    const share = spaceShares(tables).get(this.#tables.number);
    const { live, held, leaving } = share ?? { live: 0, held: 0, leaving: 0 };
    // nobody knows any more whose these were
    const isOldest = Math.min(...tables.live.keys()) === this.#tables.number;
    const freed = isOldest ? supply.dirty : 0;
    return {
      allocatedBytes: live * chunkBytes,
      snapshotBytes: held * chunkBytes,
      reclaimableBytes: (freed + leaving) * chunkBytes,
    };
  }

  get #name(): string {
    return `replica ${this.#tables.identity.replicaId}`;
  }

  #notFound(id: SnapshotId): StorError {
    return new StorError('NOT_FOUND', `${this.#name} has no snapshot ${id}`);
  }
}

export function newHead(of: {
  place: number;
  parent: number;
  replica: number;
  serial: number;
}): Layer {
  return { ...of, kind: 'head', snapshotId: '', state: 'prepared', epoch: 0, sizeBytes: 0 };
}

function checkId(id: SnapshotId): void {
  if (/^[\x21-\x7e]+$/.test(id) && id.length <= maxSnapshotIdLength) return;
  throw new StorError('INVALID_ARGUMENT', `${id} is no snapshot id`);
}

/** Chunks that do not lie in one and the same slot in both images; null is an empty one. */
function eachDifference(a: LayerImage | null, b: LayerImage, visit: (chunk: number) => void): void {
  let ours = a?.nextAllocated(0) ?? -1;
  let theirs = b.nextAllocated(0);
  while (ours >= 0 || theirs >= 0) {
    const chunk = ours < 0 || (theirs >= 0 && theirs < ours) ? theirs : ours;
    const x = Math.max(0, a?.slotOf.get(chunk) ?? 0);
    const y = Math.max(0, b.slotOf.get(chunk));
    if (x !== y) visit(chunk);
    if (ours === chunk) ours = a?.nextAllocated(chunk + 1) ?? -1;
    if (theirs === chunk) theirs = b.nextAllocated(chunk + 1);
  }
}
