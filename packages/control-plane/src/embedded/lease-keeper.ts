import { StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { RaftNode } from 'raft-ts';
import type { ClusterStoreMachine } from '../cluster-store-machine.ts';
import { LeaseDeadlines } from '../core/kv/lease-deadlines.ts';
import type { LeaseRecord } from '../core/kv/kv-state.ts';
import { fromRaft } from './raft-errors.ts';

/** How often the leader looks for leases that ran out (ms); leases last at most this much longer. */
const checkMs = 50;
/** A check that is this late means that this process stood still and heard no renewal (ms). */
const stallMs = 500;

type RaftPort = Pick<RaftNode, 'status' | 'readIndex' | 'onRoleChange'>;

/**
 * Ends leases while this member leads.
 *
 * A renewal and an expiry of one lease are ordered by this one process: an expiry is noted before
 * it is proposed, and a renewal that finds the note waits for its outcome. The expiry carries the
 * term, so that it does nothing should it be committed under a later leader, who has given every
 * lease its full time.
 */
export class LeaseKeeper {
  readonly #node: RaftPort;
  readonly #machine: ClusterStoreMachine;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #proposeExpiry: (leaseId: string, term: number) => Promise<unknown>;
  readonly #deadlines = new LeaseDeadlines();
  /** expiries that are proposed and not decided */
  readonly #expiring = new Map<string, Promise<void>>();
  #startingTerm: number | null = null;
  #checkedMs = 0;
  #closed = false;
  #cancelCheck: () => void = () => {};
  readonly #undo: () => void;

  constructor(options: {
    node: RaftPort;
    machine: ClusterStoreMachine;
    clock: Clock;
    logger: Logger;
    proposeExpiry: (leaseId: string, term: number) => Promise<unknown>;
  }) {
    this.#node = options.node;
    this.#machine = options.machine;
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#proposeExpiry = options.proposeExpiry;
    this.#checkedMs = this.#clock.monotonicMs();
    this.#undo = this.#node.onRoleChange(() => {
      this.#followRole();
    });
    this.#check();
  }

  /**
   * Renews, after a quorum round begun now. NOT_FOUND when the lease has ended, UNAVAILABLE when
   * this member does not lead (or not yet long enough).
   */
  async renew(leaseId: string): Promise<void> {
    await this.#node.readIndex().catch((error: unknown) => {
      throw fromRaft(error);
    });
    for (;;) {
      if (!this.#leads()) throw new StorError('UNAVAILABLE', 'this member does not lead yet');
      const expiry = this.#expiring.get(leaseId);
      if (!expiry) break;
      await expiry;
    }
    const lease = this.#machine.state.lease(leaseId);
    if (!lease) throw new StorError('NOT_FOUND', `lease ${leaseId} has ended`);
    this.#deadlines.renew(lease, this.#clock.monotonicMs());
  }

  /** Waits for the expiries under way; close the Raft node first, so that they end. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#undo();
    this.#cancelCheck();
    await Promise.all(this.#expiring.values());
  }

  #leads(): boolean {
    const { role, term } = this.#node.status();
    return role === 'leader' && this.#deadlines.term === term;
  }

  #followRole(): void {
    const { role, term } = this.#node.status();
    if (role !== 'leader') this.#deadlines.stop();
    else if (this.#deadlines.term !== term && this.#startingTerm !== term) void this.#begin(term);
  }

  /** Leases run from when this leader has applied an entry of its own term. */
  async #begin(term: number): Promise<void> {
    this.#startingTerm = term;
    try {
      await this.#node.readIndex();
      const { role, term: current } = this.#node.status();
      if (role === 'leader' && current === term) this.#deadlines.lead(term);
    } catch (error) {
      // no longer leader, or busy: the next check tries again if it still leads
      this.#logger.debug({ term, reason: String(error) }, 'leases do not run yet');
    } finally {
      this.#startingTerm = null;
    }
  }

  #check(): void {
    if (this.#closed) return;
    const now = this.#clock.monotonicMs();
    const lateMs = now - this.#checkedMs - checkMs;
    this.#checkedMs = now;
    this.#followRole();
    if (this.#leads()) {
      if (lateMs > stallMs) this.#deadlines.extend(lateMs);
      for (const lease of this.#deadlines.due(this.#machine.state.leases(), now)) {
        if (!this.#expiring.has(lease.leaseId)) this.#expire(lease);
      }
    }
    this.#cancelCheck = this.#clock.after(checkMs, () => {
      this.#check();
    });
  }

  #expire({ leaseId, ttlMs }: LeaseRecord): void {
    const term = this.#deadlines.term as number;
    this.#logger.info({ leaseId, ttlMs }, 'a lease was not renewed in time and ends');
    const expiry = this.#proposeExpiry(leaseId, term)
      .catch((error: unknown) => {
        this.#logger.warn(
          { leaseId, reason: String(error) },
          'the end of a lease is not committed',
        );
      })
      .then(() => {
        this.#expiring.delete(leaseId);
      });
    this.#expiring.set(leaseId, expiry);
  }
}
