import { hasCode, StorError } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import { pause } from '../resources/pause.ts';
import type { KeyStore } from './etcd-keys.ts';

/** Who leads: a key under the leader's lease. */
const leaderKey = 'leader';
/** How many leaders there have been; never under a lease. */
const termKey = 'term';

/**
 * A leader that is silent is replaced after this; etcd itself does not do less than 2 s with its
 * defaults (ms).
 */
const leaseMs = 3_000;
/** The leader counts on less than its lease: clocks may run apart meanwhile (ms). */
const holdMs = 2_500;
const renewMs = 500;
/** For one call of the election (ms). */
const callTimeoutMs = 2_000;
/** After an error (ms). */
const retryMs = 200;
/** Members that see a free seat wait up to this, so that a thousand do not all try (ms). */
const spreadMs = 100;

export interface Leadership {
  leaderId: string | null;
  term: number;
}

interface Seat extends Leadership {
  leaseId: string;
  termRevision: number;
  revision: number;
}

export interface EtcdElectionOptions {
  id: string;
  keys: KeyStore;
  clock: Clock;
  random: Random;
  logger: Logger;
  /** called with true and false in turn */
  changed: (isLeader: boolean) => void;
}

/**
 * Chooses one leader among the members. The leader's key is deleted by etcd with its lease; the
 * leader counts that lease from before each renewal, by its own clock, and stops before etcd could
 * give the seat away. No more than that is promised: a process that was stopped may act once on
 * what it believed before, so what leaders write compares revisions.
 */
export class EtcdElection {
  readonly #options: EtcdElectionOptions;
  readonly #closing = new AbortController();
  readonly #running: Promise<void>;
  #seen: Leadership = { leaderId: null, term: 0 };
  #holdUntilMs = 0;
  #isLeader = false;
  #cancelHold: () => void = () => {};

  constructor(options: EtcdElectionOptions) {
    this.#options = options;
    this.#running = this.#run();
  }

  /** By the clock and not by a flag: a process that was stopped finds its lease over. */
  get isLeader(): boolean {
    return this.#isLeader && this.#options.clock.monotonicMs() < this.#holdUntilMs;
  }

  get seen(): Leadership {
    return this.#seen;
  }

  /** Gives the seat back, so that others need not wait for the lease to end. */
  async close(): Promise<void> {
    this.#closing.abort();
    this.#lead(false);
    await this.#running;
  }

  async #run(): Promise<void> {
    const { clock, logger } = this.#options;
    const { signal } = this.#closing;
    while (!signal.aborted) {
      try {
        const seat = await this.#look();
        if (seat.leaderId === null) await this.#campaign(seat);
        else await this.#follow(seat);
      } catch (error) {
        if (signal.aborted) return;
        const { code, message } = StorError.from(error);
        logger.debug({ code, error: message }, 'the election of a leader is delayed');
        await pause(clock, retryMs, signal);
      }
    }
  }

  async #look(): Promise<Seat> {
    const { keys } = this.#options;
    const { revision, items } = await keys.list('', this.#callOptions());
    const leader = items.find(({ key }) => key === leaderKey);
    const term = items.find(({ key }) => key === termKey);
    const seat: Seat = {
      leaderId: leader ? new TextDecoder().decode(leader.value) : null,
      leaseId: leader?.leaseId ?? '',
      term: term ? Number(new TextDecoder().decode(term.value)) : 0,
      termRevision: term?.modRevision ?? 0,
      revision,
    };
    this.#seen = { leaderId: seat.leaderId, term: seat.term };
    return seat;
  }

  /** Resolves when the leader's key has changed. */
  async #follow({ revision }: Seat): Promise<void> {
    const { keys } = this.#options;
    try {
      for await (const _batch of keys.watch(leaderKey, revision, this.#closing.signal)) return;
    } catch (error) {
      if (!hasCode(error, 'FAILED_PRECONDITION')) throw error;
    }
  }

  async #campaign(seat: Seat): Promise<void> {
    const { clock, random, keys, id } = this.#options;
    if (seat.term > 0) {
      await pause(clock, random.next() * spreadMs, this.#closing.signal);
      seat = await this.#look();
    }
    if (seat.leaderId !== null || this.#closing.signal.aborted) return;
    const sentMs = clock.monotonicMs();
    const { leaseId } = await keys.grantLease(leaseMs, this.#callOptions());
    try {
      const term = seat.term + 1;
      const text = (value: string): Uint8Array => new TextEncoder().encode(value);
      const { succeeded } = await keys.transact(
        {
          compare: [
            { key: leaderKey, modRevision: 0 },
            { key: termKey, modRevision: seat.termRevision },
          ],
          operations: [
            { type: 'put', key: leaderKey, value: text(id), leaseId },
            { type: 'put', key: termKey, value: text(String(term)) },
          ],
        },
        this.#callOptions(),
      );
      if (!succeeded) return;
      this.#seen = { leaderId: id, term };
      this.#holdUntil(sentMs + holdMs);
      await this.#holdSeat(leaseId);
    } finally {
      this.#lead(false);
      await this.#giveBack(leaseId);
    }
  }

  /** Leads until the lease is lost or this member closes. */
  async #holdSeat(leaseId: string): Promise<void> {
    const { clock, keys, logger } = this.#options;
    const { signal } = this.#closing;
    while (!signal.aborted && clock.monotonicMs() < this.#holdUntilMs) {
      this.#lead(true);
      const sentMs = clock.monotonicMs();
      try {
        await keys.renewLease(leaseId, {
          timeoutMs: Math.max(1, Math.floor(this.#holdUntilMs - sentMs)),
          signal,
        });
        this.#holdUntil(sentMs + holdMs);
      } catch (error) {
        if (signal.aborted) return;
        logger.warn(
          { error: StorError.from(error).message },
          'the lease of the leader is not renewed',
        );
        if (hasCode(error, 'NOT_FOUND')) return;
        await pause(clock, retryMs, signal);
        continue;
      }
      await pause(clock, renewMs, signal);
    }
  }

  async #giveBack(leaseId: string): Promise<void> {
    const { keys, logger } = this.#options;
    try {
      await keys.revokeLease(leaseId, { timeoutMs: callTimeoutMs });
    } catch (error) {
      // it ends by itself
      logger.debug(
        { error: StorError.from(error).message },
        'the lease of the leader is not revoked',
      );
    }
  }

  #holdUntil(monotonicMs: number): void {
    this.#holdUntilMs = monotonicMs;
    this.#cancelHold();
    const { clock } = this.#options;
    this.#cancelHold = clock.after(Math.max(0, monotonicMs - clock.monotonicMs()), () => {
      this.#lead(false);
    });
  }

  #lead(isLeader: boolean): void {
    if (isLeader && (this.#closing.signal.aborted || this.#isLeader)) return;
    if (!isLeader) this.#cancelHold();
    if (isLeader === this.#isLeader) return;
    this.#isLeader = isLeader;
    const { id, logger, changed } = this.#options;
    if (!isLeader && this.#seen.leaderId === id) this.#seen = { ...this.#seen, leaderId: null };
    logger.info({ term: this.#seen.term, isLeader }, 'leadership changes');
    changed(isLeader);
  }

  #callOptions(): { timeoutMs: number; signal: AbortSignal } {
    return { timeoutMs: callTimeoutMs, signal: this.#closing.signal };
  }
}
