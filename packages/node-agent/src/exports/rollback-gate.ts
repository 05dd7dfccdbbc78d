import type { PrimaryOrder } from '@stor/control-plane';
import { StorError, type ErrorCode, type VolumeSettings } from '@stor/protocol';
import type { PrimaryVolume } from '@stor/replicator';
import type { Clock } from '@stor/runtime';
import { within } from './within.ts';

export type RollbackOrder = PrimaryOrder & { type: 'rollback' };

/** How long a rollback waits until what clients have started is answered (ms). */
const drainMs = 5_000;

/** Errors with which a primary refuses before it has changed anything. */
const refusals: ReadonlySet<ErrorCode> = new Set(['NOT_FOUND', 'FAILED_PRECONDITION']);

/** A client that is served. */
export interface GateUser {
  hold(reason?: string): void;
  resume(): void;
}

/** What there is to say of the volume while a rollback of it is recorded. */
export const rollingBackReason = 'it is being rolled back';

/**
 * Keeps clients from a volume while it is being rolled back. Its segments change one after another, and
 * a crash may come between two of them, so from before the first one changes nobody reads or writes:
 * not until the record says that the rollback is over. A primary that is granted the volume
 * meanwhile begins with a closed gate, and is ordered to roll back like the one before it.
 */
export class RollbackGate {
  readonly #clock: Clock;
  readonly #name: string;
  /** version of the record that was heard of last, from settings or from an order */
  #version: number;
  /** the rollback that the record names at that version */
  #pending: string | null;
  /** some of the volume may have been rolled back, and some not */
  #isTouched: boolean;
  /** a rollback that was refused when nothing had changed yet: it is never carried out after that */
  #refused: { id: string; error: StorError } | null = null;
  readonly #held = new Set<GateUser>();
  #work: Promise<void> | null = null;
  #opened: Promise<void> = Promise.resolve();
  #open: (() => void) | null = null;

  constructor(
    grant: Pick<VolumeSettings, 'resourceVersion' | 'rollback'> & { name: string },
    clock: Clock,
  ) {
    this.#clock = clock;
    this.#name = grant.name;
    this.#version = grant.resourceVersion;
    this.#pending = null;
    // what the primary before this one had come to is not known
    this.#isTouched = grant.rollback !== undefined;
    if (grant.rollback) this.#close(grant.rollback.id);
  }

  /** Nobody new is served. */
  get isClosed(): boolean {
    return this.#open !== null;
  }

  /** Resolves when it is open, at once when it is; never rejects. */
  get opened(): Promise<void> {
    return this.#opened;
  }

  /** What the record says now. */
  update(settings: Pick<VolumeSettings, 'resourceVersion' | 'rollback'>): void {
    if (settings.resourceVersion < this.#version) return;
    this.#version = settings.resourceVersion;
    if (settings.rollback) {
      this.#close(settings.rollback.id);
      return;
    }
    this.#pending = null;
    this.#mayOpen();
  }

  /** The primary ends: whoever waits here looks for the next one. */
  end(): void {
    this.#open?.();
    this.#open = null;
  }

  /**
   * Rolls back; what comes for one that is over does nothing. An error whose details say `untouched`
   * is a refusal: nothing has changed, and nothing will under this order's id. ABORTED: it is over.
   */
  async carryOut(
    primary: PrimaryVolume,
    order: RollbackOrder,
    served: () => readonly GateUser[],
  ): Promise<void> {
    while (this.#work) await this.#work;
    this.#admit(order);
    const work = this.#carryOut(primary, order, served);
    const over = (): void => {
      this.#work = null;
      this.#mayOpen();
    };
    this.#work = work.then(over, over);
    await work;
  }

  /** An order that comes late, for a rollback that is over, would undo what was written since. */
  #admit({ id, version }: RollbackOrder): void {
    if (version < this.#version && this.#pending !== id) {
      throw new StorError('ABORTED', `that rollback of volume ${this.#name} is over`);
    }
    this.#version = Math.max(this.#version, version);
    this.#close(id);
  }

  async #carryOut(
    primary: PrimaryVolume,
    { id, snapshotId, force }: RollbackOrder,
    served: () => readonly GateUser[],
  ): Promise<void> {
    const refused: StorError | null = this.#refused?.id === id ? this.#refused.error : null;
    if (refused) throw refused;
    const users = served();
    if (users.length > 0 && !force && !this.#isTouched) {
      const text = `a client is connected to volume ${this.#name}: disconnect it first, or give --force`;
      throw this.#refusal(id, new StorError('FAILED_PRECONDITION', text));
    }
    for (const user of users) {
      this.#held.add(user);
      user.hold(rollingBackReason);
    }
    try {
      await within(this.#clock, drainMs, primary.idle(), () => {
        const text = `requests of clients of volume ${this.#name} are not answered after ${drainMs / 1000} s: it is not rolled back`;
        throw new StorError('TIMEOUT', text);
      });
    } catch (error) {
      throw this.#refusal(id, StorError.from(error));
    }
    try {
      await primary.rollback(snapshotId);
      this.#isTouched = true;
    } catch (error) {
      const known = StorError.from(error);
      // with any other code something may have been changed
      if (refusals.has(known.code)) throw this.#refusal(id, known);
      this.#isTouched = true;
      throw known;
    }
  }

  /** The same error; when nothing has changed, one that says so, and this id is refused from then on. */
  #refusal(id: string, error: StorError): StorError {
    if (this.#isTouched) return error;
    const { code, message, details } = error;
    const refusal = new StorError(code, message, {
      cause: error,
      details: { ...details, untouched: 'true' },
    });
    this.#refused = { id, error: refusal };
    return refusal;
  }

  #close(id: string): void {
    this.#pending = id;
    if (this.#open) return;
    this.#opened = new Promise((resolve) => {
      this.#open = resolve;
    });
  }

  #mayOpen(): void {
    if (this.#pending !== null || this.#work || !this.#open) return;
    this.#isTouched = false;
    const held = [...this.#held];
    this.#held.clear();
    this.end();
    for (const user of held) user.resume();
  }
}
