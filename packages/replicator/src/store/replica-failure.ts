import { type DiskId, type ReplicaId, StorError } from '@stor/protocol';

/** What failed: of a sync also others' bytes may be lost, whatever the error says (I7). */
export type FailedStep = 'write' | 'sync';

/** Why a replica takes no more calls; set once, and recorded outside the disk before that (I7). */
export class ReplicaFailure {
  readonly #replicaId: ReplicaId;
  readonly #diskId: DiskId;
  readonly #record: (reason: string, cause: unknown) => void;
  #error: StorError | null = null;

  constructor(
    replicaId: ReplicaId,
    diskId: DiskId,
    record: (reason: string, cause: unknown) => void,
  ) {
    this.#replicaId = replicaId;
    this.#diskId = diskId;
    this.#record = record;
  }

  get error(): StorError | null {
    return this.#error;
  }

  /** The whole disk failed, or the replica did earlier: recorded already. */
  set(error: StorError): void {
    this.#error ??= error;
  }

  /**
   * A failed write fails the replica for good, except that a full file system loses nothing that
   * was there: that failure is not recorded, and ends when there is room (`endLackOfSpace`).
   */
  write(cause: unknown): StorError {
    if (this.#error && !this.isFull) return this.#error;
    if (cause instanceof StorError && cause.code !== 'NO_SPACE') {
      // the journal failed, and with it the disk: recorded by whoever saw it
      return (this.#error = cause);
    }
    if (isLackOfSpace(cause)) {
      this.#error ??= new StorError(
        'NO_SPACE',
        `replica ${this.#replicaId} on disk ${this.#diskId} cannot take a write: the disk is full; free space on it or move replicas away`,
        { cause },
      );
      return this.#error;
    }
    return this.#forGood('write', cause);
  }

  /** Only when nothing is under way: what failed was told to whoever asked for it. */
  endLackOfSpace(): void {
    if (this.isFull) this.#error = null;
  }

  /**
   * Also for lack of space: what could not be written back is lost. So it is after a write that found
   * no room, whose failure would end by itself.
   */
  sync(cause: unknown): StorError {
    if (this.#error && !this.isFull) return this.#error;
    if (cause instanceof StorError) return (this.#error = cause);
    return this.#forGood('fdatasync', cause);
  }

  /**
   * An order (about snapshots, the size) failed. One that found no room for its tables was not carried
   * out, and nothing is lost. Any other error of a table fails the replica: the next sync of that
   * file would be told that all is well (I7).
   */
  order(cause: unknown): StorError {
    if (cause instanceof StorError) return cause;
    if (this.#error && !this.isFull) return this.#error;
    if (isLackOfSpace(cause)) {
      const what = `replica ${this.#replicaId} on disk ${this.#diskId} has no room for its tables: free space on the disk`;
      return new StorError('NO_SPACE', what, { cause });
    }
    return this.write(cause);
  }

  /** A failed read fails the call, not the replica: another member may repair the block. */
  read(cause: unknown): StorError {
    if (cause instanceof StorError) return cause;
    const message = `replica ${this.#replicaId} on disk ${this.#diskId}: read failed: ${text(cause)}`;
    return new StorError('DISK_FAILED', message, { cause });
  }

  /** Another replica whose slots lie in the same files has failed for good. */
  shared(reason: string, cause: unknown): void {
    if (this.#error && !this.isFull) return;
    this.#set(reason, cause);
  }

  /** A write found the file system full. */
  get isFull(): boolean {
    return this.#error?.code === 'NO_SPACE';
  }

  #forGood(what: string, cause: unknown): StorError {
    return this.#set(`${what} failed: ${text(cause)}`, cause);
  }

  #set(reason: string, cause: unknown): StorError {
    const error = new StorError(
      'DISK_FAILED',
      `replica ${this.#replicaId} on disk ${this.#diskId}: ${reason}; it must be rebuilt`,
      { cause },
    );
    // set before: recording fails the replicas that share its files, and they tell this one in turn
    this.#error = error;
    this.#record(reason, cause);
    return error;
  }
}

export function isLackOfSpace(cause: unknown): boolean {
  if (cause instanceof StorError) return cause.code === 'NO_SPACE';
  return cause instanceof Error && (cause as NodeJS.ErrnoException).code === 'ENOSPC';
}

function text(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

const refusals = new Set([
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'FAILED_PRECONDITION',
  'INVALID_ARGUMENT',
  'STALE_EPOCH',
]);

/** The call was not for this replica to do; nothing of it has failed. */
export function isRefusal(cause: unknown): cause is StorError {
  return cause instanceof StorError && refusals.has(cause.code);
}
