import type { KnownSnapshot } from './sim-cluster.ts';

/** As the control plane keeps it. */
export interface SnapshotRow {
  id: string;
  volumeId: string;
  name: string;
  state: KnownSnapshot['state'];
  sizeBytes: number;
  groupId: string;
}

/** The newest records of snapshots that any node has applied. */
export class SnapshotTable {
  readonly #rows = new Map<string, { row: SnapshotRow; revision: number }>();
  readonly #changed: (row: SnapshotRow) => void;

  constructor(changed: (row: SnapshotRow) => void) {
    this.#changed = changed;
  }

  /** `key`: of the record, whose last part is the id of the snapshot; null: it was removed. */
  learn(key: string, value: Uint8Array | null, revision: number): void {
    const id = key.slice(key.lastIndexOf('/') + 1);
    const known = this.#rows.get(id);
    if (known && known.revision >= revision) return;
    if (value === null && !known) return;
    const row = value
      ? (JSON.parse(Buffer.from(value).toString()) as SnapshotRow)
      : { ...(known?.row as SnapshotRow), state: 'gone' as const };
    this.#rows.set(id, { row, revision });
    if (known?.row.state !== row.state) this.#changed(row);
  }

  /** All that exist at a revision of the store: whatever else was known before is gone. */
  listed(
    items: readonly { key: string; value: Uint8Array; modRevision: number }[],
    at: number,
  ): void {
    const found = new Set<string>();
    for (const { key, value, modRevision } of items) {
      found.add(key.slice(key.lastIndexOf('/') + 1));
      this.learn(key, value, modRevision);
    }
    for (const [id, { row, revision }] of this.#rows) {
      if (!found.has(id) && revision < at && row.state !== 'gone') this.learn(id, null, at);
    }
  }

  /** What there is now, as one text: two that are equal have the same snapshots in the same states. */
  get fingerprint(): string {
    const all = [...this.#rows.values()].filter(({ row }) => row.state !== 'gone');
    return JSON.stringify(all.map(({ row, revision }) => [row.id, revision]));
  }

  /** In the order in which they became known. */
  of(volumeId: string): SnapshotRow[] {
    const rows = [...this.#rows.values()].map(({ row }) => row);
    return rows.filter((row) => row.volumeId === volumeId && row.state !== 'gone');
  }
}
