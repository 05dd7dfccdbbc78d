import { type DiskId, StorError } from '@stor/protocol';
import { CallOrder, type OrderedCall } from '../core/store/call-order.ts';
import type { StoreDone } from '../replica-store.ts';
import { isRefusal, type ReplicaFailure } from './replica-failure.ts';

/** What has failed when a call has. */
type CallKind = 'read' | 'write' | 'order';

interface SlowCall extends OrderedCall {
  kind: CallKind;
  run(): Promise<void>;
  done: StoreDone;
}

export interface ReplicaCallsParts {
  diskId: DiskId;
  failure: ReplicaFailure;
  /** a call that has its place in the order has ended */
  ended(): void;
}

/** The calls of one replica that are under way: their order, their failures, and when there are none. */
export class ReplicaCalls {
  readonly order = new CallOrder();

  readonly #parts: ReplicaCallsParts;
  #closed = false;
  #others = 0;
  #idleWaiters: (() => void)[] = [];

  constructor(parts: ReplicaCallsParts) {
    this.#parts = parts;
  }

  get closed(): boolean {
    return this.#closed;
  }

  get idle(): boolean {
    return this.order.size === 0 && this.#others === 0;
  }

  closedError(): StorError {
    return new StorError('ABORTED', `disk ${this.#parts.diskId} is closed`);
  }

  /**
   * Answers the call when nothing may be asked any more. One that `frees` room is for a replica whose
   * disk is full, too: nothing else makes it whole again.
   */
  refused(done: StoreDone, frees = false): boolean {
    const error = this.#errorFor(frees) ?? (this.#closed ? this.closedError() : null);
    if (error) answerLater(done, error);
    return error !== null;
  }

  /** Runs the call when earlier ones that conflict with it have ended. */
  submit(
    from: number,
    to: number,
    writes: boolean,
    done: StoreDone,
    run: () => Promise<void>,
    kind: CallKind = writes ? 'write' : 'read',
  ): void {
    if (this.refused(done)) return;
    const call: SlowCall = {
      ...{ from, to, writes, id: 0, blockers: 0, done, run, kind },
      start: () => void this.#run(call),
    };
    this.order.add(call);
  }

  /** Runs a call that says itself, by `over`, when it has ended; its `done` is its own to answer. */
  add(call: OrderedCall): void {
    this.order.add(call);
  }

  /** Such a call has ended: later ones that conflict with it may go. */
  over(call: OrderedCall): void {
    this.order.finish(call);
    this.#parts.ended();
    this.#wakeIdle();
  }

  /** An order, in turn with every other call; those that only read go on unless this one `writes`. */
  submitWhole(writes: boolean, done: StoreDone, run: () => Promise<void>): void {
    this.submit(0, Infinity, writes, done, run, 'order');
  }

  async #run(call: SlowCall): Promise<void> {
    const { failure } = this.#parts;
    let { error } = failure;
    if (!error) {
      try {
        await call.run();
        error = failure.error;
      } catch (cause) {
        const { kind } = call;
        error = kind === 'write' && isRefusal(cause) ? cause : failure[kind](cause);
      }
    } else {
      await Promise.resolve();
    }
    this.over(call);
    call.done(error);
  }

  #errorFor(frees: boolean): StorError | null {
    const { failure } = this.#parts;
    return frees && failure.isFull ? null : failure.error;
  }

  /** Answers with the outcome of an order that needs no place among the calls. */
  answer(work: Promise<void>, done: StoreDone, frees = false): void {
    const { failure } = this.#parts;
    const counted = this.counted(done);
    work.then(
      () => {
        counted(this.#errorFor(frees));
      },
      (cause: unknown) => {
        counted(failure.order(cause));
      },
    );
  }

  /** Counts a call as under way until it is answered. */
  counted(done: StoreDone): StoreDone {
    this.#others += 1;
    return (error) => {
      this.#others -= 1;
      this.#wakeIdle();
      done(error);
    };
  }

  #wakeIdle(): void {
    if (!this.idle) return;
    const waiters = this.#idleWaiters;
    this.#idleWaiters = [];
    for (const wake of waiters) wake();
  }

  /** Refuses calls from now on and waits for those under way. */
  async drain(): Promise<void> {
    this.#closed = true;
    while (!this.idle) await new Promise<void>((resolve) => this.#idleWaiters.push(resolve));
  }
}

export function answerLater(done: StoreDone, error: StorError): void {
  queueMicrotask(() => {
    done(error);
  });
}
