import { StorError, blockBytes, hasCode, type ReplicaId, type SnapshotId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';

import type { StoreDone } from '../replica-store.ts';
import type {
  DirtyDone,
  ExtentsDone,
  ReplicaSnapshotReader,
  SnapshotReader,
} from './snapshot-reader.ts';

/** A replica that could not be reached is asked again after this (ms). */
const retryMs = 5_000;
/** Blocks that were found bad and are being written anew, in one reader; others are met again. */
const maxRepairs = 64;

/** A replica that may have the snapshot. */
export interface SnapshotSource {
  readonly replicaId: ReplicaId;
  /** NOT_FOUND: it does not have it. UNAVAILABLE and all else: it may be asked again later. */
  open(): Promise<ReplicaSnapshotReader>;
  /** The block there does not match its checksum, or cannot be read. */
  noteFound?(offset: number): void;
  /** It was written anew, with the bytes of that replica. */
  noteRepaired?(offset: number, from: ReplicaId): void;
}

export interface FailoverReaderOptions {
  /** the one to be asked first comes first */
  sources: readonly SnapshotSource[];
  sizeBytes: number;
  clock: Clock;
  logger: Logger;
}

interface Place {
  source: SnapshotSource;
  reader: ReplicaSnapshotReader | null;
  opening: Promise<ReplicaSnapshotReader> | null;
  /** it does not have the snapshot any more */
  gone: boolean;
  notBeforeMs: number;
}

/**
 * One segment of a snapshot, from whichever replica can give it. A block that does not verify on one
 * is read from another and repaired in the first (I9); a replica that is lost is left for another.
 */
export class FailoverSnapshotReader implements SnapshotReader {
  readonly sizeBytes: number;
  /** blocks that a replica could not give, and of those the ones written anew */
  found = 0;
  repaired = 0;
  readonly #options: FailoverReaderOptions;
  readonly #places: Place[];
  readonly #repairing = new Set<string>();
  #closed = false;

  constructor(options: FailoverReaderOptions) {
    this.#options = options;
    this.sizeBytes = options.sizeBytes;
    this.#places = options.sources.map((source) => ({
      source,
      reader: null,
      opening: null,
      gone: false,
      notBeforeMs: -Infinity,
    }));
  }

  /** Resolves when some replica has it open. The error with which none has. */
  async ready(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#withReader(
        new Set(),
        null,
        () => {
          resolve();
        },
        reject,
      );
    });
  }

  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void {
    this.#read(offset, length, target, start, new Set(), null, done);
  }

  extents(offset: number, length: number, limit: number, done: ExtentsDone): void {
    const ask = (tried: Set<Place>, last: StorError | null): void => {
      this.#withReader(
        tried,
        last,
        (reader, place) => {
          reader.extents(offset, length, limit, (error, extents) => {
            if (error) this.#next(place, error, tried, ask);
            else done(null, extents);
          });
        },
        (error) => {
          done(error, []);
        },
      );
    };
    ask(new Set(), null);
  }

  changedSince(
    since: SnapshotId,
    offset: number,
    length: number,
    limit: number,
    done: DirtyDone,
  ): void {
    const ask = (tried: Set<Place>, last: StorError | null): void => {
      this.#withReader(
        tried,
        last,
        (reader, place) => {
          reader.changedSince(since, offset, length, limit, (error, extents) => {
            if (!error) done(null, extents);
            else {
              // about the other snapshot: this one may well be there
              tried.add(place);
              ask(tried, error);
            }
          });
        },
        (error) => {
          done(error, []);
        },
      );
    };
    ask(new Set(), null);
  }

  close(): void {
    this.#closed = true;
    for (const place of this.#places) {
      place.reader?.close();
      place.reader = null;
    }
  }

  #read(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    bad: Set<Place>,
    last: StorError | null,
    done: StoreDone,
  ): void {
    this.#withReader(
      bad,
      last,
      (reader, place) => {
        reader.read(offset, length, target, start, (error) => {
          if (!error) {
            if (length === blockBytes) this.#repair(bad, place, offset, target, start);
            done(null);
          } else if (!hasCode(error, 'CHECKSUM_MISMATCH', 'DISK_FAILED')) {
            this.#next(place, error, bad, (tried, why) => {
              this.#read(offset, length, target, start, tried, why, done);
            });
          } else if (length > blockBytes) {
            this.#eachBlock(offset, length, target, start, done);
          } else {
            this.found += 1;
            this.#noteBad(place, offset, error);
            this.#read(offset, length, target, start, bad.add(place), error, done);
          }
        });
      },
      done,
    );
  }

  /** Some block of the range is bad on some replica: which one, and who has it. */
  #eachBlock(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    done: StoreDone,
  ): void {
    const next = (at: number): void => {
      if (at === length) {
        done(null);
        return;
      }
      this.#read(offset + at, blockBytes, target, start + at, new Set(), null, (error) => {
        if (error) done(error);
        else next(at + blockBytes);
      });
    };
    next(0);
  }

  #noteBad(place: Place, offset: number, error: StorError): void {
    const { replicaId } = place.source;
    place.source.noteFound?.(offset);
    const what = { replica: replicaId, offset, error: error.message };
    this.#options.logger.warn(what, 'a replica could not give a block of a snapshot');
  }

  #repair(bad: Set<Place>, good: Place, offset: number, target: Uint8Array, start: number): void {
    for (const { reader, source } of bad) {
      const key = `${source.replicaId} ${offset}`;
      if (!reader || this.#repairing.has(key) || this.#repairing.size >= maxRepairs) continue;
      this.#repairing.add(key);
      // the caller may use its buffer again at once
      const bytes = Buffer.from(target.subarray(start, start + blockBytes));
      const replica = source.replicaId;
      reader.repair(offset, bytes, (error) => {
        this.#repairing.delete(key);
        if (error) {
          const what = { replica, offset, error: error.message };
          this.#options.logger.warn(what, 'a bad block of a snapshot could not be repaired');
        } else {
          this.repaired += 1;
          source.noteRepaired?.(offset, good.source.replicaId);
          this.#options.logger.warn({ replica, offset }, 'a bad block of a snapshot was repaired');
        }
      });
    }
  }

  /** The replica is lost for now, or does not have it any more: another one is asked. */
  #next(
    place: Place,
    error: StorError,
    tried: Set<Place>,
    ask: (tried: Set<Place>, last: StorError) => void,
  ): void {
    this.#lose(place, error);
    ask(tried.add(place), error);
  }

  #lose(place: Place, error: StorError): void {
    place.reader?.close();
    place.reader = null;
    place.gone ||= hasCode(error, 'NOT_FOUND');
    place.notBeforeMs = this.#options.clock.monotonicMs() + retryMs;
    const { replicaId } = place.source;
    this.#options.logger.info(
      { replica: replicaId, error: error.message },
      'snapshot not read here',
    );
  }

  /** Calls back with the first replica that has it open, or opens one that was not tried. */
  #withReader(
    tried: ReadonlySet<Place>,
    last: StorError | null,
    use: (reader: ReplicaSnapshotReader, place: Place) => void,
    fail: (error: StorError) => void,
  ): void {
    if (this.#closed) {
      fail(new StorError('ABORTED', 'the snapshot is not read any more'));
      return;
    }
    const nowMs = this.#options.clock.monotonicMs();
    const left = this.#places.filter((place) => !place.gone && !tried.has(place));
    const place = left.find((each) => nowMs >= each.notBeforeMs) ?? left[0];
    if (!place) {
      fail(this.#noneLeft(last));
      return;
    }
    if (place.reader) {
      use(place.reader, place);
      return;
    }
    this.#open(place).then(
      (reader) => {
        use(reader, place);
      },
      (thrown: unknown) => {
        const error = StorError.from(thrown);
        this.#lose(place, error);
        this.#withReader(new Set(tried).add(place), error, use, fail);
      },
    );
  }

  async #open(place: Place): Promise<ReplicaSnapshotReader> {
    place.opening ??= place.source.open().finally(() => {
      place.opening = null;
    });
    const reader = await place.opening;
    if (this.#closed) {
      reader.close();
      throw new StorError('ABORTED', 'the snapshot is not read any more');
    }
    place.reader ??= reader;
    return place.reader;
  }

  /** A block that is bad everywhere keeps its own error; without a replica the snapshot is gone. */
  #noneLeft(last: StorError | null): StorError {
    if (this.#places.every(({ gone }) => gone)) {
      return new StorError('NOT_FOUND', 'the snapshot was deleted: no replica has it any more');
    }
    return last ?? new StorError('UNAVAILABLE', 'no replica that has the snapshot can be reached');
  }
}
