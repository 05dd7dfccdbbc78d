import { blockBytes } from '@stor/protocol';

import type {
  ImageContent,
  KnownSnapshot,
  ReplicaView,
  SimCluster,
  SimVolume,
} from '../cluster/sim-cluster.ts';
import { ioOf } from '../workload/volume-client.ts';
import { common, type Span } from './sector-history.ts';
import { imageOf, sectorBytes, type VolumeHistory } from './volume-history.ts';

/** A snapshot that is ready in its record is ready at some replica soon; it is looked for so often. */
const lookTries = 20;
const lookEveryMs = 500;
/** In peace every member has every snapshot, and no other, within (ms). */
const settleMs = 60_000;
/** A request of a client that reads a whole snapshot (bytes). */
const readBytes = 1024 * 1024;

/** How the name of one begins that a rollback takes first. */
const safetyName = 'before-rollback';

interface Snapshot extends KnownSnapshot {
  /** the image was frozen between the order and the moment in which its record said ready */
  cut: Span;
  /** value of each sector; null: nobody has read it yet */
  image: Uint32Array | null;
  /** when the volume may have been this image; null: not judged yet */
  moments: Span[] | null;
}

interface SnapshotCheckerOptions {
  cluster: SimCluster;
  histories: ReadonlyMap<string, VolumeHistory>;
  violation: (checker: string, detail: string) => void;
  count: (what: string) => void;
}

/**
 * A snapshot whose record says that it is ready is the whole volume at one moment between the order and
 * then, the same bytes on every replica that calls it ready, for ever; those of a group are of the same
 * moment. It goes only when somebody deletes it.
 */
export class SnapshotChecker {
  readonly #options: SnapshotCheckerOptions;
  /** positions of orders in the run, by volume and name */
  readonly #ordered = new Map<string, number>();
  readonly #snapshots = new Map<string, Snapshot>();
  readonly #mayGo = new Set<string>();
  /** volumes that may have become another image: nothing new is judged before that is known */
  readonly #unsure = new Set<string>();
  /** bytes are going to rot: nobody looks at replicas but `inTheEnd` */
  #isOver = false;

  constructor(options: SnapshotCheckerOptions) {
    this.#options = options;
  }

  /** Somebody is about to order a snapshot, or something that takes one of such a name. */
  ordered(volume: string, name: string): void {
    this.#ordered.set(`${volume}@${name}`, this.#history(volume).now());
  }

  /** Somebody is about to order that it is deleted. */
  mayGo(volume: string, name: string): void {
    this.#mayGo.add(`${volume}@${name}`);
  }

  /** Somebody is about to order a rollback: it may take a snapshot first, and delete that again. */
  rollsBack(volume: string): void {
    this.ordered(volume, safetyName);
    this.mayGo(volume, safetyName);
    this.#unsure.add(volume);
  }

  /** Its history says what came of that. */
  rolledBack(volume: string): void {
    this.#unsure.delete(volume);
  }

  /** Those that are ready, and of which the content is known. */
  known(volume: string): { name: string; image: Uint32Array; sizeBytes: number }[] {
    const all = [...this.#snapshots.values()].filter((each) => each.volume === volume);
    return all.flatMap(({ state, name, image, sizeBytes }) =>
      state === 'ready' && image && name !== '' ? [{ name, image, sizeBytes }] : [],
    );
  }

  /**
   * Those of them that nobody ordered to be deleted: only to such a one is a rollback sure to come about.
   * An order that was given before, and is still under way, takes the others away at any moment.
   */
  kept(volume: string): { name: string; image: Uint32Array; sizeBytes: number }[] {
    return this.known(volume).filter(({ name }) => !this.#mayGo.has(`${volume}@${name}`));
  }

  changed(now: KnownSnapshot): void {
    const known = this.#snapshots.get(now.id);
    if (known) {
      const full = orderOf(known);
      if (known.state === 'ready' && now.state !== 'ready' && !this.#mayGo.has(full)) {
        this.#violation(`${full} (${now.id}) is ${now.state}, and nobody deleted it`);
      }
      known.state = now.state;
    } else if (now.state === 'ready') {
      this.#options.count('snapshot-ready');
      const full = orderOf(now);
      const to = this.#history(now.volume).now();
      const cut = { from: this.#ordered.get(full) ?? -1, to };
      const snapshot = { ...now, cut, image: null, moments: null };
      this.#snapshots.set(now.id, snapshot);
      void this.#lookSoon(snapshot);
    }
  }

  /** Looks at one replica's copy of some snapshot. */
  async glance(volume: SimVolume, dice: number): Promise<void> {
    const ready = this.#ready(volume);
    const snapshot = ready[Math.floor(dice * ready.length)];
    const replicas = this.#options.cluster.replicasOf(volume);
    const replica = replicas[Math.floor(dice * 7919) % Math.max(1, replicas.length)];
    if (snapshot && replica) await this.#look(snapshot, replica);
  }

  /** When all is healthy: every member has every snapshot, and no other. */
  async inTheEnd(when: string): Promise<void> {
    const { cluster } = this.#options;
    this.#isOver = true;
    for (const volume of cluster.volumes) {
      let why: string | null = null;
      const isSettled = (): boolean => (why = this.#unsettled(volume)) === null;
      if (!(await cluster.scheduler.until(isSettled, settleMs, 500))) {
        this.#options.violation('liveness', `snapshots of ${volume.name} ${when}: ${why ?? ''}`);
        return;
      }
      const { inSync } = cluster.committed(volume);
      for (const snapshot of this.#ready(volume)) {
        for (const replica of cluster.replicasOf(volume)) {
          const isDone = await this.#look(snapshot, replica);
          const isMember = inSync.includes(replica.replicaId) && replica.failed === null;
          if (isMember && !isDone) {
            this.#violation(`${textOf(snapshot)} cannot be read at ${replica.replicaId} ${when}`);
          }
        }
      }
    }
    this.#judgeGroups();
  }

  /** Every snapshot as clients of that node read it, of whichever replica answers. */
  async readThrough(host: string, node: number, volume: SimVolume): Promise<void> {
    const { cluster, count } = this.#options;
    for (const snapshot of this.#ready(volume)) {
      const name = `${volume.name}@${snapshot.name}`;
      const shown = { ...volume, name, sizeBytes: snapshot.sizeBytes };
      const link = await cluster.connect(host, node, shown, false);
      const bytes = Buffer.alloc(snapshot.sizeBytes);
      for (let at = 0; at < bytes.length; at += readBytes) {
        const part = bytes.subarray(at, Math.min(bytes.length, at + readBytes));
        const [from, to] = [at / sectorBytes, (at + part.length) / sectorBytes];
        const outcome = await link.submit(ioOf('read', from, to, part));
        if (outcome === 'done') continue;
        this.#options.violation('readable', `${textOf(snapshot)}: ${JSON.stringify(outcome)}`);
        return;
      }
      link.close();
      count('snapshot-export');
      const valid = new Uint8Array(bytes.length / blockBytes).fill(1);
      const problem = this.#compare(snapshot, { bytes, valid });
      if (problem !== null) this.#violation(`${textOf(snapshot)} through its export: ${problem}`);
    }
  }

  /** What is not yet as it must be; null: nothing. */
  #unsettled(volume: SimVolume): string | null {
    const { cluster } = this.#options;
    const recorded = cluster.snapshotsOf(volume);
    const other = recorded.find(({ state }) => state !== 'ready');
    if (other) return `${other.name} (${other.id}) is ${other.state}`;
    const wanted = recorded.map(({ id }) => `${id} ready`).sort();
    const { inSync } = cluster.committed(volume);
    for (const { replicaId, failed, snapshots } of cluster.replicasOf(volume)) {
      if (failed !== null || !inSync.includes(replicaId)) continue;
      const has = snapshots.map(({ id, state }) => `${id} ${state}`).sort();
      if (String(has) !== String(wanted)) {
        return `${replicaId} has ${has.join()}, and there are ${wanted.join()}`;
      }
    }
    return null;
  }

  #ready(volume: SimVolume): Snapshot[] {
    const all = [...this.#snapshots.values()];
    return all.filter((each) => each.volume === volume.name && each.state === 'ready');
  }

  async #lookSoon(snapshot: Snapshot): Promise<void> {
    const { cluster } = this.#options;
    const volume = cluster.volumes.find(({ name }) => name === snapshot.volume);
    for (let tries = 0; volume && tries < lookTries && snapshot.state === 'ready'; tries++) {
      if (this.#isOver) return;
      const replicas = cluster.replicasOf(volume);
      const first = tries % Math.max(1, replicas.length);
      const replica = replicas[first];
      if (replica && (await this.#look(snapshot, replica))) return;
      await cluster.scheduler.sleep(lookEveryMs);
    }
  }

  /** False when the replica has none that is ready, or cannot be read now. */
  async #look(snapshot: Snapshot, replica: ReplicaView): Promise<boolean> {
    const isReady = replica.snapshots.some(({ id, state }) => {
      return id === snapshot.id && state === 'ready';
    });
    if (!isReady || replica.failed !== null) return false;
    const content = await replica.snapshot(snapshot.id);
    if (!content || snapshot.state !== 'ready') return false;
    if (!snapshot.image && this.#unsure.has(snapshot.volume)) return false;
    this.#options.count('snapshot-read');
    const problem = this.#compare(snapshot, content);
    if (problem !== null) {
      this.#violation(`${textOf(snapshot)} at ${replica.replicaId}: ${problem}`);
    }
    return true;
  }

  #compare(snapshot: Snapshot, { bytes, valid }: ImageContent): string | null {
    const bad = valid.findIndex((state) => state !== 1);
    if (bad >= 0) return `block ${bad} does not match its checksum`;
    if (bytes.length < snapshot.sizeBytes) return `it has ${bytes.length} bytes`;
    const image = imageOf(bytes);
    if (typeof image === 'string') return image;
    if (!snapshot.image) return this.#judge(snapshot, image);
    const known = snapshot.image;
    const at = image.findIndex((value, sector) => value !== known[sector]);
    if (at < 0) return null;
    return `sector ${at} holds ${image[at] ?? -1}, and held ${known[at] ?? -1} before or elsewhere`;
  }

  #judge(snapshot: Snapshot, image: Uint32Array): string | null {
    snapshot.image = image;
    const history = this.#history(snapshot.volume);
    const moments = history.heldIn(image, snapshot.cut);
    if (typeof moments === 'string') return moments;
    snapshot.moments = moments;
    history.seen(image, snapshot.cut);
    return null;
  }

  #judgeGroups(): void {
    const groups = new Map<string, Snapshot[]>();
    for (const snapshot of this.#snapshots.values()) {
      if (snapshot.groupId === '' || !snapshot.moments) continue;
      groups.set(snapshot.groupId, [...(groups.get(snapshot.groupId) ?? []), snapshot]);
    }
    for (const members of groups.values()) {
      const [first, ...others] = members;
      if (!first || others.length === 0) continue;
      this.#options.count('snapshot-group');
      let moments = first.moments ?? [];
      for (const other of others) moments = common(moments, other.moments ?? []);
      if (moments.length > 0) continue;
      const names = members.map((each) => `${textOf(each)}: ${JSON.stringify(each.moments)}`);
      this.#violation(`there is no moment that all of a group are of: ${names.join('; ')}`);
    }
  }

  #history(volume: string): VolumeHistory {
    const history = this.#options.histories.get(volume);
    if (!history) throw new Error(`no history of ${volume}`);
    return history;
  }

  #violation(detail: string): void {
    this.#options.violation('snapshot', detail);
  }
}

/** What was ordered when it was taken. */
function orderOf({ volume, name }: KnownSnapshot): string {
  return `${volume}@${name.startsWith(safetyName) ? safetyName : name}`;
}

function textOf({ volume, name, id }: Snapshot): string {
  return `${volume}@${name} (${id})`;
}
