/** One call as its caller saw it. Times are of one counter that rises with every call and return. */
export interface CalledOperation<O> {
  operation: O;
  calledAt: number;
  /** Infinity: it has no answer, so it may take effect at any time later, or never */
  returnedAt: number;
}

/** What one object does when it is asked one thing at a time. */
export interface SequentialModel<O> {
  /** the state at first, as text */
  initial: string;
  /**
   * The state after the operation; null when its answer would be wrong in this state. An operation
   * without an answer must be right in any state.
   */
  step(state: string, operation: O): string | null;
}

interface Event<O> {
  call: CalledOperation<O>;
  /** position among the operations */
  id: number;
  isReturn: boolean;
  previous: Event<O> | null;
  next: Event<O> | null;
  /** of a call: its return */
  end: Event<O> | null;
}

/**
 * Is there an order of these operations, each at one moment between its call and its return, in which
 * the model gives every answer? The search of Wing and Gong (1993) over a list of calls and returns,
 * with the memory of Lowe (2017), as in Porcupine: what was tried with the same operations done and
 * the same state is not tried again.
 *
 * The object should be as small as can be: linearizability is local, so a history of many keys is
 * checked key by key. A sequence of thousands of operations is cheap; the cost grows with the number
 * of those that overlap, above all of those without an answer, which overlap all that follows. Null:
 * there was no answer after `maxSteps`.
 */
export function isLinearizable<O>(
  history: readonly CalledOperation<O>[],
  model: SequentialModel<O>,
  maxSteps = 5_000_000,
): boolean | null {
  const head = listOf(history);
  const tried = new Set<string>();
  const path: { event: Event<O>; state: string; done: bigint }[] = [];
  let state = model.initial;
  let done = 0n;
  let event = head.next;
  for (let steps = 0; event; steps++) {
    if (steps >= maxSteps) return null;
    if (event.isReturn) {
      // what is left has no answer: it may never happen
      if (event.call.returnedAt === Infinity) return true;
      // this one had to come before: take the last choice back
      const last = path.pop();
      if (!last) return false;
      ({ state, done } = last);
      putBack(last.event);
      event = last.event.next;
      continue;
    }
    const after = model.step(state, event.call.operation);
    const bits: bigint = done | (1n << BigInt(event.id));
    const memo: string = after === null ? '' : `${bits.toString(36)} ${after}`;
    if (after !== null && !tried.has(memo)) {
      tried.add(memo);
      path.push({ event, state, done });
      state = after;
      done = bits;
      takeOut(event);
      event = head.next;
    } else {
      event = event.next;
    }
  }
  return true;
}

/** A list of calls and returns in the order of time, behind a head that is none. */
function listOf<O>(history: readonly CalledOperation<O>[]): Event<O> {
  const events = history.flatMap((call, id): Event<O>[] => {
    const end: Event<O> = { call, id, isReturn: true, previous: null, next: null, end: null };
    return [{ ...end, isReturn: false, end }, end];
  });
  const timeOf = ({ call, isReturn }: Event<O>) => (isReturn ? call.returnedAt : call.calledAt);
  // a call at the very time of a return overlaps it
  events.sort((a, b) => {
    const [x, y] = [timeOf(a), timeOf(b)];
    return x === y ? Number(a.isReturn) - Number(b.isReturn) : x - y;
  });
  const [first] = history;
  const call = first ?? { operation: undefined as O, calledAt: 0, returnedAt: 0 };
  const head: Event<O> = { call, id: -1, isReturn: false, previous: null, next: null, end: null };
  let last = head;
  for (const event of events) {
    last.next = event;
    event.previous = last;
    last = event;
  }
  return head;
}

function takeOut<O>(call: Event<O>): void {
  for (const event of [call, call.end]) {
    if (event?.previous) event.previous.next = event.next;
    if (event?.next) event.next.previous = event.previous;
  }
}

function putBack<O>(call: Event<O>): void {
  for (const event of [call.end, call]) {
    if (event?.previous) event.previous.next = event;
    if (event?.next) event.next.previous = event;
  }
}

/** A call on one register. Values should differ from write to write. */
export type RegisterOperation =
  /** null: nothing was there */
  | { type: 'read'; seen: string | null }
  | { type: 'write'; value: string }
  /** null for `succeeded`: it is not known */
  | { type: 'compareAndSet'; expected: string | null; value: string; succeeded: boolean | null };

const nothing = '-';
const asState = (value: string | null): string => (value === null ? nothing : `=${value}`);

/** One key that is read, written, and written if it is what it was. */
export const registerModel: SequentialModel<RegisterOperation> = {
  initial: nothing,
  step(state, operation) {
    switch (operation.type) {
      case 'read':
        return asState(operation.seen) === state ? state : null;
      case 'write':
        return asState(operation.value);
      case 'compareAndSet': {
        const succeeds = asState(operation.expected) === state;
        if (operation.succeeded !== null && operation.succeeded !== succeeds) return null;
        return succeeds ? asState(operation.value) : state;
      }
    }
  },
};
