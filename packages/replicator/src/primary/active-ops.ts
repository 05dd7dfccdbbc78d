import type { IoOp } from './io-op.ts';

/**
 * Ops that are not answered, in the order in which they came. The links lie in the ops: a set would
 * make a table anew again and again as it fills and empties.
 */
export class ActiveOps implements Iterable<IoOp> {
  size = 0;
  #head: IoOp | null = null;
  #tail: IoOp | null = null;

  add(op: IoOp): void {
    if (op.isActive) throw new Error('an op came twice');
    op.isActive = true;
    op.activeBefore = this.#tail;
    op.activeAfter = null;
    if (this.#tail) this.#tail.activeAfter = op;
    else this.#head = op;
    this.#tail = op;
    this.size += 1;
  }

  /** Nothing happens when it is not among them. */
  delete(op: IoOp): void {
    if (!op.isActive) return;
    op.isActive = false;
    const { activeBefore, activeAfter } = op;
    if (activeBefore) activeBefore.activeAfter = activeAfter;
    else this.#head = activeAfter;
    if (activeAfter) activeAfter.activeBefore = activeBefore;
    else this.#tail = activeBefore;
    op.activeBefore = null;
    op.activeAfter = null;
    this.size -= 1;
  }

  /** None may come or go meanwhile: who lets them go copies first. */
  *[Symbol.iterator](): Iterator<IoOp> {
    for (let op = this.#head; op; op = op.activeAfter) yield op;
  }
}
