import { membershipOf } from './core/membership.ts';
import type { StoredState } from './core/storage.ts';
import type { Entry } from './core/types.ts';
import { RaftError } from './errors.ts';
import type { Proposals } from './proposals.ts';
import type { RaftStateMachine, Settings } from './raft-options.ts';

/**
 * Who heard a heartbeat gives no vote for `electionTicks` of its ticks, of which the first may come
 * at once, and one more early after a late one. Its clock may be faster than ours by the drift.
 */
export function leaseMs({ electionTicks, tickMs, leaseClockDrift }: Settings): number {
  if (leaseClockDrift === undefined) return 0;
  return Math.max(0, electionTicks - 2) * tickMs * (1 - leaseClockDrift);
}

/** A new member: its voters are durable before it says its first word. */
export async function createState(settings: Settings): Promise<StoredState> {
  const state: StoredState = {
    hardState: { term: 0, vote: null, commit: 0 },
    snapshot: {
      index: 0,
      term: 0,
      membership: membershipOf(settings.initialVoters),
      sizeBytes: 0,
      checksum: 0,
    },
    start: { index: 0, term: 0 },
    entries: [],
  };
  await settings.storage.save({
    hardState: state.hardState,
    snapshot: state.snapshot,
    log: { type: 'reset', position: state.start },
    entries: [],
  });
  return state;
}

/** Only normal entries reach the state machine; the core has applied changes of members itself. */
export function applyEntries(
  machine: RaftStateMachine,
  entries: Entry[],
  proposals: Proposals,
): void {
  const normal = entries.filter((entry) => entry.type === 'normal');
  if (normal.length === 0) return;
  const results = machine.apply(normal);
  if (results.length !== normal.length) {
    throw new RaftError(
      'INTERNAL',
      `the state machine gave ${results.length} results for ${normal.length} entries`,
    );
  }
  normal.forEach((entry, i) => {
    proposals.applied(entry, results[i]);
  });
}
