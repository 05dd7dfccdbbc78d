import { StorError } from '@stor/protocol';
import type { EventReason } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { ClusterStore, MemberChange, StoreMembers } from '../cluster-store.ts';
import { planMembers } from '../core/members/plan-members.ts';
import type { MembersAction } from '../core/members/plan-members.ts';
import { nodeName } from '../resources/cluster-state.ts';
import { every } from '../resources/every.ts';
import { memberKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import type { EventLog } from './event-log.ts';

/** Members are looked at so often, besides at each change of a record (ms). */
const lookMs = 500;
/** A change that a majority does not take in this time is given up, and planned anew (ms). */
const changeMs = 10_000;

interface MemberKeeperOptions {
  store: ClusterStore;
  cache: StateCache;
  events: EventLog;
  clock: Clock;
  logger: Logger;
}

/** Runs `planMembers` while this member of the embedded store leads. */
export class MemberKeeper {
  readonly #store: ClusterStore;
  readonly #members: StoreMembers;
  readonly #cache: StateCache;
  readonly #events: EventLog;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #closing = new AbortController();
  readonly #undo: (() => void)[];
  #working: Promise<void> | null = null;
  #again = false;
  /** what was logged last */
  #trouble = '';

  /** Null when the store has no members of ours. */
  static of(options: MemberKeeperOptions): MemberKeeper | null {
    const { members } = options.store;
    return members ? new MemberKeeper(options, members) : null;
  }

  private constructor(options: MemberKeeperOptions, members: StoreMembers) {
    this.#store = options.store;
    this.#members = members;
    this.#cache = options.cache;
    this.#events = options.events;
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#undo = [
      every(this.#clock, lookMs, () => {
        this.#look();
      }),
      this.#cache.onChange(() => {
        this.#look();
      }),
    ];
  }

  async close(): Promise<void> {
    for (const undo of this.#undo) undo();
    this.#closing.abort();
    await this.#working;
  }

  #look(): void {
    if (this.#closing.signal.aborted || !this.#store.status().isLeader) return;
    if (!this.#cache.loaded) return;
    this.#again = true;
    this.#working ??= this.#rounds().finally(() => {
      this.#working = null;
    });
  }

  async #rounds(): Promise<void> {
    while (this.#again && !this.#closing.signal.aborted) {
      this.#again = false;
      try {
        const members = await this.#members.read();
        if (!this.#store.status().isLeader) return;
        const action = planMembers(members, this.#cache.state, this.#clock.wallMs());
        if (!action) continue;
        await this.#do(action);
        this.#trouble = '';
        // what is written is heard of as a change of the records
        if (action.type !== 'readdress') this.#again = true;
      } catch (error) {
        // the next look plans it again
        const { message } = StorError.from(error);
        if (message !== this.#trouble) {
          this.#logger.warn({ error: message }, 'the members of the store stay as they are');
        }
        this.#trouble = message;
        return;
      }
    }
  }

  async #do(action: MembersAction): Promise<void> {
    const name = (id: string): string => nodeName(this.#cache.state, id);
    switch (action.type) {
      case 'add':
        await this.#change([{ type: 'addLearner', id: action.id }]);
        this.#note('member-added', action.id, 'joined the cluster store as a learner');
        return;
      case 'remove':
        await this.#change([{ type: 'remove', id: action.id }]);
        this.#note('member-removed', action.id, 'left the cluster store');
        return;
      case 'change': {
        const { promote, demote, reason } = action;
        await this.#change([
          ...promote.map((id): MemberChange => ({ type: 'addVoter', id })),
          ...demote.map((id): MemberChange => ({ type: 'addLearner', id })),
        ]);
        this.#logger.info({ promote, demote, reason }, 'the voters of the cluster store change');
        const why = reason.replaceAll(/\bn-[0-9a-f]{16}\b/g, name);
        for (const id of promote) this.#note('voter-added', id, `votes now: ${why}`);
        for (const id of demote) this.#note('voter-removed', id, `has no vote any more: ${why}`);
        return;
      }
      case 'readdress': {
        const { record, address } = action;
        const key = memberKey(record.id);
        const known = this.#cache.state.members.get(record.id);
        await this.#store.transact({
          compare: [{ key, modRevision: known?.modRevision ?? 0 }],
          operations: [{ type: 'put', key, value: encodeRecord({ ...record, address }) }],
        });
        return;
      }
    }
  }

  async #change(changes: MemberChange[]): Promise<void> {
    const limit = new AbortController();
    const stop = (): void => {
      limit.abort();
    };
    const cancel = this.#clock.after(changeMs, stop);
    this.#closing.signal.addEventListener('abort', stop, { once: true });
    try {
      await this.#members.change(changes, limit.signal);
    } finally {
      cancel();
      this.#closing.signal.removeEventListener('abort', stop);
    }
  }

  #note(reason: EventReason, id: string, what: string): void {
    const { members } = this.#cache.state;
    // a node that has just joined has not registered yet
    const known = nodeName(this.#cache.state, id);
    const name = known === id ? (members.get(id)?.value.name ?? id) : known;
    this.#events.note({
      type: 'normal',
      reason,
      object: { kind: 'node', id, name },
      message: `node ${name} ${what}`,
    });
  }
}
