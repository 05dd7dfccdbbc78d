import type { EventNote } from '@stor/protocol';
import type { Clock } from '@stor/runtime';

import type { ReplicatorControl } from '../replicator-ports.ts';
import type { Member } from './member.ts';

/** A replica, and where it lies. */
type Place = Pick<Member, 'replicaId' | 'diskId' | 'nodeId'>;

/** What happens to the same replica within this time becomes one message (ms). */
const gatherMs = 1_000;

/** Blocks of replicas as the primaries of a lane found them, since it started. */
export interface IntegrityCounters {
  disks: { diskId: string; found: number; repaired: number }[];
  /** blocks that verify and differ, and were left so */
  diverged: number;
  scrubbedBytes: number;
}

/** Counts bad blocks for the metrics, and tells of them and of lack of space as events; one for a lane. */
export class IntegrityLog {
  readonly #clock: Clock;
  readonly #noteEvent: ReplicatorControl['noteEvent'];
  readonly #disks = new Map<string, { found: number; repaired: number }>();
  readonly #pending = new Map<string, EventNote & { count: number }>();
  #diverged = 0;
  #cancel: (() => void) | null = null;
  scrubbedBytes = 0;

  constructor(clock: Clock, noteEvent: ReplicatorControl['noteEvent']) {
    this.#clock = clock;
    this.#noteEvent = noteEvent;
  }

  counters(): IntegrityCounters {
    const disks = [...this.#disks].map(([diskId, counts]) => ({ diskId, ...counts }));
    return { disks, diverged: this.#diverged, scrubbedBytes: this.scrubbedBytes };
  }

  /** A block of the member does not verify, or cannot be read. */
  found(volumeId: string, member: Place, offset: number): void {
    this.#of(member).found += 1;
    const message = `the block at byte ${offset} of the replica on disk ${member.diskId} of ${member.nodeId} does not match its checksum or cannot be read`;
    this.#note(volumeId, member, 'bad-block-found', message);
  }

  repaired(volumeId: string, member: Place, offset: number, from: string): void {
    this.#of(member).repaired += 1;
    const message = `the block at byte ${offset} of the replica on ${member.nodeId} was written again from replica ${from}`;
    this.#note(volumeId, member, 'bad-block-repaired', message);
  }

  kept(volumeId: string, member: Place, offset: number): void {
    const message = `the block at byte ${offset} of the replica on disk ${member.diskId} of ${member.nodeId} is bad, and no other replica in sync has it: reads of it fail until it is written`;
    this.#note(volumeId, member, 'bad-block-kept', message);
  }

  /** A write of the volume was refused: the member has no room for a new chunk. */
  noSpace(volumeId: string, { diskId, nodeId }: Place): void {
    this.#gather({
      type: 'warning',
      reason: 'volume-no-space',
      object: { kind: 'volume', id: volumeId },
      volumeId,
      message: `writes that need a new chunk get ENOSPC: no space on disk ${diskId} of node ${nodeId}; overwriting and reading go on`,
    });
  }

  diverged(volumeId: string, offset: number, replicas: readonly string[]): void {
    this.#diverged += 1;
    this.#gather({
      type: 'warning',
      reason: 'replicas-differ',
      object: { kind: 'volume', id: volumeId },
      message: `the block at byte ${offset} matches its checksum and differs between replicas ${replicas.join(', ')}: it was left as it is`,
    });
  }

  #of({ diskId }: Place): { found: number; repaired: number } {
    let counts = this.#disks.get(diskId);
    if (!counts) {
      counts = { found: 0, repaired: 0 };
      this.#disks.set(diskId, counts);
    }
    return counts;
  }

  #note(
    volumeId: string,
    { replicaId }: Place,
    reason: 'bad-block-found' | 'bad-block-repaired' | 'bad-block-kept',
    message: string,
  ): void {
    const type = reason === 'bad-block-repaired' ? 'normal' : 'warning';
    this.#gather({ type, reason, object: { kind: 'replica', id: replicaId }, volumeId, message });
  }

  #gather(note: EventNote): void {
    if (!this.#noteEvent) return;
    const key = `${note.reason} ${note.object.id}`;
    const count = (this.#pending.get(key)?.count ?? 0) + 1;
    this.#pending.set(key, { ...note, count });
    this.#cancel ??= this.#clock.after(gatherMs, () => {
      this.flush();
    });
  }

  /** Tells what was gathered now. */
  flush(): void {
    this.#cancel?.();
    this.#cancel = null;
    const notes = [...this.#pending.values()];
    this.#pending.clear();
    // an event that cannot be told is in the log of this node, and in the metrics
    for (const note of notes) Promise.resolve(this.#noteEvent?.(note)).catch(() => {});
  }
}
