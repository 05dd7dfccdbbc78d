import { decodeCommand } from './core/kv/kv-command.ts';
import { SnapshotReader, snapshotPieces } from './core/kv/kv-snapshot.ts';
import { KvState, type KvResult } from './core/kv/kv-state.ts';

/** What the machine needs to know of an entry of the Raft log. */
export interface LogEntry {
  term: number;
  data: Uint8Array;
}

/**
 * The key-value state as Raft drives it: entries in, results out, and a call to whoever waits for
 * changes. An entry that cannot be decoded throws, and so stops this member: its log was checked
 * when it was proposed, so the bytes are of a newer program, and to skip them would make members
 * differ.
 */
export class ClusterStoreMachine {
  readonly state: KvState;
  readonly #listeners = new Set<() => void>();

  constructor(state = new KvState()) {
    this.state = state;
  }

  apply(entries: LogEntry[]): KvResult[] {
    const results = entries.map(({ data, term }) => this.state.apply(decodeCommand(data), term));
    this.#notify();
    return results;
  }

  snapshot(): Iterable<Uint8Array> {
    // of a list of the records as they are now; a change puts another record in the place of one
    return snapshotPieces(this.state.image());
  }

  /** The state stays as it was until all pieces are there. */
  async restore(pieces: AsyncIterable<Uint8Array>): Promise<void> {
    const reader = new SnapshotReader();
    for await (const piece of pieces) reader.add(piece);
    this.state.restore(reader.end());
    this.#notify();
  }

  /** Called after entries were applied or a snapshot was restored; returns the undo. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  #notify(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}
