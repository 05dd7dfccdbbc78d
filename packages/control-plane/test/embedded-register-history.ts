/**
 * A checker for histories of one register (Wing and Gong, with the memory of Lowe): is there an
 * order of the operations, each at some moment between its call and its answer, in which every
 * answer is right? Values are unique per write, so the value is the whole state.
 */
export interface RegisterOperation {
  type: 'read' | 'write' | 'compareAndSet';
  /** what a read returned, what a compare-and-set expects; null: no value */
  seen: string | null;
  /** what is written */
  next: string | null;
  /** of a compare-and-set; null: not known */
  succeeded: boolean | null;
  calledAt: number;
  /** Infinity: no answer, so it may happen at any time, or never */
  answeredAt: number;
}

/** The state after the operation, undefined when its answer would be wrong. */
function step(state: string | null, one: RegisterOperation): string | null | undefined {
  if (one.type === 'read') return one.seen === state ? state : undefined;
  if (one.type === 'write') return one.next;
  const succeeds = one.seen === state;
  if (one.succeeded !== null && one.succeeded !== succeeds) return undefined;
  return succeeds ? one.next : state;
}

export function isLinearizable(history: RegisterOperation[]): boolean {
  const operations = [...history].sort((a, b) => a.calledAt - b.calledAt);
  const seen = new Set<string>();
  const search = (done: bigint, state: string | null): boolean => {
    const memo = `${done}:${state}`;
    if (seen.has(memo)) return false;
    seen.add(memo);
    const open = operations.flatMap((one, i) => (done & (1n << BigInt(i)) ? [] : [{ one, i }]));
    if (open.every(({ one }) => one.answeredAt === Infinity)) return true;
    // what has been answered must come before what was called after the answer
    const firstAnswer = Math.min(...open.map(({ one }) => one.answeredAt));
    return open.some(({ one, i }) => {
      if (one.calledAt > firstAnswer) return false;
      const next = step(state, one);
      return next !== undefined && search(done | (1n << BigInt(i)), next);
    });
  };
  return search(0n, null);
}
