import { blockBytes, chunkBytes } from '@stor/protocol';
import type { ScrubCounts, ScrubProgress, SnapshotId, StorError } from '@stor/protocol';

import type { Bitmap } from '../core/replication/bitmap.ts';
import type { ResyncPace } from '../core/replication/resync-pace.ts';
import type { ScrubBudget } from '../core/replication/scrub-budget.ts';
import { judgeChunk, type ScrubChoice } from '../core/replication/scrub-choice.ts';
import type { ChunkSums } from '../core/replication/settle-choice.ts';
import { chunkRetryMs, scrubOrderMs, scrubRateMs } from '../replication/limits.ts';
import type { BackgroundTurns } from '../background-turns.ts';
import { liveImage, type BlockRepair, type ImageOf, type RepairResult } from './block-repair.ts';
import { ChunkLock } from './chunk-lock.ts';
import type { IntegrityLog } from './integrity-log.ts';
import type { Member } from './member.ts';
import { PieceTurns } from './piece-turns.ts';
import type { Segment, SegmentPart } from './segment.ts';
import { gather } from './settler.ts';
import { ownChunks, readyMembers, readySnapshots, type ReadySnapshot } from './snapshot-chunks.ts';

/** What one segment is to do of a scrub; see ScrubOrder. */
export interface SegmentScrubOrder {
  runId: string;
  /** where it begins when it does not know the run */
  chunk: number;
  paused: boolean;
  rateBytesPerSecond: number;
}

export interface SegmentScrubProgress {
  state: ScrubProgress['state'];
  message: string;
  /** everything before it is done */
  chunk: number;
  /** of this segment, since it began here */
  counts: ScrubCounts;
  bytesRemaining: number;
  bytesPerSecond: number;
}

export interface ScrubberOptions {
  /** the segment serves and nothing of it is to be settled */
  mayStart: () => boolean;
  blocks: BlockRepair;
  log: IntegrityLog;
  pace: ResyncPace;
  /** of all scrubs of the lane */
  budget: ScrubBudget;
  turns: BackgroundTurns;
}

export const noCounts: Readonly<ScrubCounts> = {
  bytes: 0,
  found: 0,
  repaired: 0,
  kept: 0,
  diverged: 0,
};

/** A chunk of the live image or of a snapshot, at the members that have it. */
interface Piece {
  readonly snapshotId: SnapshotId | null;
  readonly offset: number;
  readonly length: number;
  readonly members: readonly Member[];
  readonly imageOf: ImageOf;
}

interface Run {
  readonly runId: string;
  readonly counts: ScrubCounts;
  totalBytes: number;
  chunk: number;
  /** what is left of snapshots, once the live image is read; null before */
  snapshots: ReadySnapshot[] | null;
  /** ... and of the first of them; null: not known yet */
  ownChunks: Bitmap | null;
  paused: boolean;
  finished: boolean;
  /** ... and whoever orders it has heard so */
  told: boolean;
  /** without another order it ends then */
  untilMs: number;
  notBeforeMs: number;
  message: string;
  rate: { sinceMs: number; bytes: number; bytesPerSecond: number };
}

/**
 * Reads every allocated chunk of every in-sync member, verified, and compares them (I9): chunk after
 * chunk under its range lock, as slowly as clients need it. Blocks that do not verify are written
 * again from members whose do; the same happens to one that is outvoted. What nobody can decide is
 * counted, told and left.
 *
 * It runs as long as it is ordered to, again and again: who ordered it may be gone.
 */
export class Scrubber implements SegmentPart {
  readonly #segment: Segment;
  readonly #options: ScrubberOptions;
  readonly #turns: PieceTurns;
  #run: Run | null = null;
  /** a chunk is being looked at, or repairs are made durable */
  #busy = false;
  #cancelTimer: (() => void) | null = null;

  constructor(segment: Segment, options: ScrubberOptions) {
    this.#segment = segment;
    this.#options = options;
    this.#turns = new PieceTurns(options.turns, () => {
      this.#pump();
    });
  }

  /** Begins, goes on or pauses; an unknown run replaces the one before. */
  order(order: SegmentScrubOrder): SegmentScrubProgress {
    const nowMs = this.#nowMs();
    let run = this.#run;
    if (run?.runId !== order.runId) {
      run = this.#begin(order, nowMs);
      this.#run = run;
    }
    run.paused = order.paused;
    run.untilMs = nowMs + scrubOrderMs;
    this.#options.budget.rate = order.rateBytesPerSecond;
    this.#pump();
    run.told = run.finished;
    return this.#progress(run);
  }

  /**
   * A run is under way that is not paused, or nobody has heard yet that it is finished: the volume
   * should stay attached.
   */
  get isWanted(): boolean {
    const run = this.#run;
    return run !== null && !run.told && !run.paused && this.#nowMs() < run.untilMs;
  }

  /** allocated and not read yet */
  get bytesRemaining(): number {
    return this.#run ? this.#progress(this.#run).bytesRemaining : 0;
  }

  tick(): void {
    this.#pump();
  }

  membersChanged(): void {
    this.#pump();
  }

  /** The primary has ended. */
  abandon(): void {
    this.#turns.drop();
  }

  #nowMs(): number {
    return this.#segment.options.clock.monotonicMs();
  }

  #begin({ runId, chunk, paused }: SegmentScrubOrder, nowMs: number): Run {
    return {
      runId,
      counts: { ...noCounts },
      totalBytes: this.#allocatedBytes(chunk),
      chunk,
      snapshots: null,
      ownChunks: null,
      paused,
      finished: false,
      told: false,
      untilMs: nowMs,
      notBeforeMs: nowMs,
      message: '',
      rate: { sinceMs: nowMs, bytes: 0, bytesPerSecond: 0 },
    };
  }

  #progress(run: Run): SegmentScrubProgress {
    const { counts, finished, paused, message, chunk } = run;
    const state = finished ? 'finished' : paused ? 'paused' : message ? 'waiting' : 'running';
    return {
      state,
      message: state === 'waiting' ? message : '',
      chunk,
      counts: { ...counts },
      bytesRemaining: finished ? 0 : Math.max(0, run.totalBytes - counts.bytes),
      bytesPerSecond: state === 'running' ? run.rate.bytesPerSecond : 0,
    };
  }

  /** What the fullest in-sync member has from there on. */
  #allocatedBytes(from: number): number {
    let most = 0;
    for (const { allocated } of this.#segment.sources()) {
      let count = 0;
      let at = allocated?.next(from) ?? -1;
      for (; at >= 0; at = allocated?.next(at + 1) ?? -1) count += 1;
      most = Math.max(most, count);
    }
    return most * chunkBytes;
  }

  /** The next chunk that any in-sync member has; -1: none. */
  #next(from: number): number {
    let next = -1;
    for (const { allocated } of this.#segment.sources()) {
      const at = allocated ? allocated.next(from) : -1;
      if (at >= 0 && (next < 0 || at < next)) next = at;
    }
    return next;
  }

  #whyNot(run: Run): string {
    const segment = this.#segment;
    if (!this.#options.mayStart()) return 'the in-sync replicas are made equal first';
    if (segment.sources().length === 0) return 'no in-sync replica can be reached';
    // redundancy comes first; a resync that stands still keeps nobody
    const isFilling = segment.syncing.size > 0 || segment.joining.size > 0;
    if (isFilling && !segment.policy.rebuildPaused) return 'a replica is being resynced';
    if (segment.membership?.stable !== true) return 'the in-sync set is being changed';
    return this.#nowMs() < run.notBeforeMs ? run.message : '';
  }

  #pump(): void {
    const run = this.#run;
    if (!run || this.#busy || this.#segment.stopped) return;
    const isOver = run.finished || !this.isWanted;
    if (!isOver) run.message = this.#whyNot(run);
    if (isOver || run.message !== '') {
      this.#turns.drop();
      return;
    }
    const chunk = this.#next(run.chunk);
    if (chunk >= 0) {
      this.#start(run, chunk, this.#lengthOf(chunk, this.#segment.sizeBytes), null);
      return;
    }
    run.snapshots ??= readySnapshots(this.#segment.sources());
    this.#pumpSnapshots(run, run.snapshots);
  }

  /** One snapshot after the other. After a restart they are read from the first one again. */
  #pumpSnapshots(run: Run, snapshots: ReadySnapshot[]): void {
    const [first] = snapshots;
    if (!first) {
      this.#finish(run);
      return;
    }
    const { snapshotId, sizeBytes } = first;
    if (!run.ownChunks) {
      this.#planSnapshot(run, snapshotId);
      return;
    }
    const chunk = run.ownChunks.next(0);
    const length = chunk < 0 ? 0 : this.#lengthOf(chunk, sizeBytes);
    const isThere = readyMembers(this.#segment.sources(), snapshotId).length > 0;
    if (length > 0 && isThere) {
      this.#start(run, chunk, length, snapshotId);
      return;
    }
    // it is read, or was dropped meanwhile
    snapshots.shift();
    run.ownChunks = null;
    this.#pumpSnapshots(run, snapshots);
  }

  #planSnapshot(run: Run, snapshotId: SnapshotId): void {
    this.#busy = true;
    ownChunks(this.#segment.sources(), snapshotId, (chunks) => {
      this.#busy = false;
      run.ownChunks = chunks;
      run.totalBytes += chunks.count * chunkBytes;
      // in an event of its own: there may be thousands with nothing to read
      this.#pumpAfter(0);
    });
  }

  /** One piece, as soon as the budget, the lanes and the pace allow it; its range is not held before. */
  #start(run: Run, chunk: number, length: number, snapshotId: SnapshotId | null): void {
    const { pace, budget } = this.#options;
    const nowMs = this.#nowMs();
    const scrubMs = budget.waitMs(nowMs);
    if (scrubMs === 0 && !this.#turns.want(1, 'scrub', length, this.#segment.sources())) return;
    const waitMs = scrubMs || pace.begin(length, nowMs);
    if (waitMs > 0) {
      this.#pumpAfter(waitMs);
      return;
    }
    const turn = this.#turns.use();
    budget.take(length);
    this.#busy = true;
    const over = (isDone: boolean, members: number): void => {
      this.#busy = false;
      turn.end();
      const endMs = this.#nowMs();
      pace.ended(length * Math.max(0, members - 1), endMs);
      if (isDone) {
        this.#passed(run, length, endMs);
        if (snapshotId === null) run.chunk = chunk + 1;
        else run.ownChunks?.delete(chunk);
      } else {
        run.notBeforeMs = endMs + chunkRetryMs;
        run.message = 'a replica was lost while it was read';
      }
      this.#pump();
    };
    const offset = chunk * chunkBytes;
    if (snapshotId === null) this.#scrubLive(run, { offset, length }, over);
    else this.#scrubSnapshot(run, snapshotId, { offset, length }, over);
  }

  #pumpAfter(waitMs: number): void {
    if (this.#cancelTimer) return;
    this.#cancelTimer = this.#segment.options.clock.after(waitMs, () => {
      this.#cancelTimer = null;
      this.#pump();
    });
  }

  #passed(run: Run, length: number, nowMs: number): void {
    run.counts.bytes += length;
    this.#options.log.scrubbedBytes += length;
    const { rate } = run;
    rate.bytes += length;
    const tookMs = nowMs - rate.sinceMs;
    if (tookMs < scrubRateMs) return;
    rate.bytesPerSecond = Math.round((rate.bytes * 1_000) / tookMs);
    rate.sinceMs = nowMs;
    rate.bytes = 0;
  }

  #lengthOf(chunk: number, sizeBytes: number): number {
    const padded = Math.ceil(sizeBytes / blockBytes) * blockBytes;
    return Math.min(chunkBytes, padded - chunk * chunkBytes);
  }

  /** Nobody writes there meanwhile. `isDone` false: it has to be looked at again. */
  #scrubLive(
    run: Run,
    { offset, length }: { offset: number; length: number },
    over: (isDone: boolean, members: number) => void,
  ): void {
    const { lock } = this.#segment;
    const owner: ChunkLock = new ChunkLock(offset, length, () => {
      const members = this.#segment.sources();
      const release = (isDone: boolean): void => {
        lock.release(owner);
        over(isDone, members.length);
      };
      const isCurrent = !this.#segment.stopped && this.#run === run;
      const piece = { snapshotId: null, offset, length, members, imageOf: liveImage };
      if (!isCurrent || members.length === 0 || !this.#options.mayStart()) release(false);
      else this.#compare(run, piece, release);
    });
    if (lock.acquire(owner)) owner.lockGranted();
  }

  /** What is frozen needs no lock. */
  #scrubSnapshot(
    run: Run,
    snapshotId: SnapshotId,
    range: { offset: number; length: number },
    over: (isDone: boolean, members: number) => void,
  ): void {
    const members = readyMembers(this.#segment.sources(), snapshotId);
    const imageOf: ImageOf = (member) => member.view(snapshotId);
    this.#compare(run, { ...range, snapshotId, members, imageOf }, (isDone) => {
      over(isDone, members.length);
    });
  }

  #compare(run: Run, piece: Piece, over: (isDone: boolean) => void): void {
    const { members, offset, length, imageOf } = piece;
    const views: ChunkSums[] = [];
    gather(members, (member, index, next) => {
      imageOf(member).sums(offset, length, (error, sums) => {
        if (sums) views[index] = sums;
        next(error);
      });
    })((error: StorError | null) => {
      // a snapshot that is gone has nothing that could be wrong
      const isGone = piece.snapshotId !== null && error?.code === 'NOT_FOUND';
      if (error || views.length !== members.length || this.#segment.stopped) {
        over(isGone);
        return;
      }
      const choice = judgeChunk(views);
      this.#tell(run, choice, piece);
      this.#rewrite(run, choice, piece, over);
    });
  }

  #tell(run: Run, choice: ScrubChoice, { members, offset }: Piece): void {
    const { blocks, log } = this.#options;
    const { volumeId, offsetBytes, logger } = this.#segment.options;
    for (const { member, block } of choice.bad) {
      const of = members[member];
      if (of) blocks.noteFound(of, offset + block * blockBytes);
    }
    for (const { member, block } of choice.kept) {
      const of = members[member];
      if (of) blocks.noteKept(of, offset + block * blockBytes);
    }
    const ids = members.map(({ replicaId }) => replicaId);
    for (const block of choice.diverged) {
      const at = offset + block * blockBytes;
      logger.error(
        { offset: at, replicas: ids },
        'replicas differ where all match their checksums',
      );
      log.diverged(volumeId, offsetBytes + at, ids);
    }
    run.counts.found += choice.bad.length;
    run.counts.kept += choice.kept.length;
    run.counts.diverged += choice.diverged.length;
  }

  /** One after the other: they are few. */
  #rewrite(run: Run, choice: ScrubChoice, piece: Piece, over: (isDone: boolean) => void): void {
    const { blocks } = this.#options;
    const { members, offset, imageOf } = piece;
    const next = (index: number): void => {
      const rewrite = choice.rewrites[index];
      const member = rewrite && members[rewrite.member];
      const source = rewrite && members[rewrite.source];
      if (!member || !source) {
        over(true);
        return;
      }
      const at = offset + rewrite.block * blockBytes;
      const done = (result: RepairResult): void => {
        if (result === 'repaired') run.counts.repaired += 1;
        else if (result === 'no-source') {
          run.counts.kept += 1;
          blocks.noteKept(member, at);
        }
        next(index + 1);
      };
      blocks.rewrite(member, at, done, [source], imageOf);
    };
    next(0);
  }

  /** What was repaired becomes durable before it is called done. */
  #finish(run: Run): void {
    this.#busy = true;
    const members = run.counts.repaired > 0 ? this.#segment.sources() : [];
    gather(members, (member, _index, next) => {
      member.flush(next);
    })((error) => {
      this.#busy = false;
      if (error) run.notBeforeMs = this.#nowMs() + chunkRetryMs;
      else {
        run.finished = true;
        const { logger } = this.#segment.options;
        logger.info({ run: run.runId, ...run.counts }, 'a scrub has read the whole segment');
      }
    });
  }
}
