import type { Logger } from '@stor/runtime';
import type { ClusterStoreMachine } from '../cluster-store-machine.ts';
import { membersPrefix } from '../resources/keys.ts';
import { decodeMember, type MemberRecord } from '../resources/member-record.ts';

/**
 * The records of members in the store's own state, as far as it is applied here. They are looked at
 * again when the state has changed, before anybody else hears of it.
 */
export class RecordedMembers {
  readonly #machine: ClusterStoreMachine;
  readonly #logger: Logger;
  readonly #changed: (records: ReadonlyMap<string, MemberRecord>) => void;
  readonly #undo: () => void;
  #records = new Map<string, MemberRecord>();
  /** of the state that was looked at last */
  #revision = -1;
  #newest = -1;

  constructor(options: {
    machine: ClusterStoreMachine;
    logger: Logger;
    /** called with all of them when one has changed */
    changed: (records: ReadonlyMap<string, MemberRecord>) => void;
  }) {
    this.#machine = options.machine;
    this.#logger = options.logger;
    this.#changed = options.changed;
    this.#undo = this.#machine.onChange(() => {
      this.#look();
    });
    this.#look();
  }

  get(id: string): MemberRecord | null {
    return this.#records.get(id) ?? null;
  }

  close(): void {
    this.#undo();
  }

  #look(): void {
    const { state } = this.#machine;
    if (state.revision === this.#revision) return;
    this.#revision = state.revision;
    const items = state.list(membersPrefix);
    const newest = items.reduce((most, item) => Math.max(most, item.modRevision), 0);
    // members are never deleted but by a snapshot that replaces all
    if (newest === this.#newest && items.length === this.#records.size) return;
    this.#newest = newest;
    this.#records = new Map();
    for (const { key, value } of items) {
      try {
        const record = decodeMember(key, value);
        this.#records.set(record.id, record);
      } catch (error) {
        this.#logger.error({ key, error: String(error) }, 'a record of a member cannot be read');
      }
    }
    this.#changed(this.#records);
  }
}
