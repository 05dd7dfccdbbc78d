import { maxVoters, type RaftLimits } from './core/limits.ts';
import type { RaftStorage } from './core/storage.ts';
import type { Entry, PeerId, RaftMessage } from './core/types.ts';
import { RaftError } from './errors.ts';

/** What is replicated. Called from one place, never while another call of it runs. */
export interface RaftStateMachine {
  /**
   * Applies committed entries in order and returns one result per entry, given to who proposed it
   * here. Must do the same on every member, and not throw: a throw stops the node.
   */
  apply(entries: Entry[]): unknown[];
  /**
   * All of the state after the last applied entry, in pieces of any size. They are asked for one after the
   * other while `apply` goes on, so they must be of the state as it was at the call: of a copy, or a
   * version that stays. Each should take no longer than the process may stand still; an empty one is only
   * a pause. A small state is one piece: `return [bytes]`.
   */
  snapshot(): Iterable<Uint8Array>;
  /**
   * Replaces the state with that of a snapshot, of this member or another; pieces are cut elsewhere than
   * `snapshot` did. Nothing is applied meanwhile. The state must stay as it was until all are there, and
   * if `pieces` throws, because a newer snapshot has come, this must reject.
   */
  restore(pieces: AsyncIterable<Uint8Array>): Promise<void>;
}

/** Carries messages. May lose, delay, repeat and reorder them; must not block or throw. */
export interface RaftTransport {
  send(to: PeerId, messages: RaftMessage[]): void;
}

export interface RaftClock {
  /** milliseconds that never go back */
  monotonicMs(): number;
  /** Runs `fn` once after `delayMs`; the returned function cancels it. */
  after(delayMs: number, fn: () => void): () => void;
}

/** Fields first, then a sentence. */
export interface RaftLogger {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface RaftNodeOptions {
  id: PeerId;
  /**
   * The voters of a new cluster, the same on each; later the stored members count. Empty for a
   * member that joins a cluster: it takes part in nothing until a leader that has added it writes.
   */
  initialVoters: PeerId[];
  /** Stays the caller's: closed by the caller, after the node. */
  storage: RaftStorage;
  transport: RaftTransport;
  stateMachine: RaftStateMachine;
  clock: RaftClock;
  /** uniform in [0, 1) */
  random: () => number;
  /** @default 100 */
  tickMs?: number;
  /** Ticks without a leader until an election, at least; at most twice as many. @default 10 */
  electionTicks?: number;
  /** @default 1 */
  heartbeatTicks?: number;
  /** A log snapshot is taken every so many applied entries. @default 10_000 */
  snapshotEntries?: number;
  /** Entries kept after a log snapshot for followers that lag. @default a tenth of the above */
  trailingEntries?: number;
  /**
   * Allows lease reads, and bounds how much faster any member's monotonic clock may run than
   * another's: 0.01 is one percent. Must be the same on every member. With a clock beyond it a lease
   * read may miss the newest writes. @default lease reads are refused
   */
  leaseClockDrift?: number;
  limits?: Partial<RaftLimits>;
  logger?: RaftLogger;
  /** The node has stopped for good; nothing is sent any more. Called once. */
  onFatal?: (error: RaftError) => void;
}

/** The options with their defaults. */
export type Settings = RaftNodeOptions &
  Required<
    Pick<RaftNodeOptions, 'tickMs' | 'electionTicks' | 'snapshotEntries' | 'trailingEntries'>
  >;

/** Throws INVALID_ARGUMENT for what cannot work. */
export function checkOptions(options: RaftNodeOptions): Settings {
  const {
    tickMs = 100,
    electionTicks = 10,
    heartbeatTicks = 1,
    snapshotEntries = 10_000,
  } = options;
  const trailingEntries = options.trailingEntries ?? Math.ceil(snapshotEntries / 10);
  const refuse = (reason: string): never => {
    throw new RaftError('INVALID_ARGUMENT', reason);
  };
  const { id, initialVoters } = options;
  if (id === '' || initialVoters.includes('')) refuse('a member needs a name');
  if (new Set(initialVoters).size !== initialVoters.length) refuse('a voter is named twice');
  if (initialVoters.length > maxVoters) refuse(`more than ${maxVoters} voters`);
  if (initialVoters.length > 0 && !initialVoters.includes(id)) {
    refuse(`${id} is not among the voters`);
  }
  if (!(tickMs > 0)) refuse('tickMs must be positive');
  if (electionTicks <= heartbeatTicks) refuse('electionTicks must be more than heartbeatTicks');
  const { leaseClockDrift = 0 } = options;
  if (!(leaseClockDrift >= 0 && leaseClockDrift < 1)) refuse('leaseClockDrift is not below 1');
  if (snapshotEntries < 1) refuse('snapshotEntries must be positive');
  return { ...options, tickMs, electionTicks, heartbeatTicks, snapshotEntries, trailingEntries };
}
