/** One call on one key, as its caller saw it. Times are of one counter that rises. */
export interface Operation {
  type: 'put' | 'get';
  /** written, or seen; null: nothing was there */
  value: string | null;
  calledAt: number;
  /** Infinity: the outcome is unknown, so it may take effect at any time later, or never */
  returnedAt: number;
}

/**
 * Is there an order of these operations, each at one moment between its call and its return, in
 * which every get sees the put before it? The search of Wing and Gong (1993), with the memory of
 * Lowe (2017): what was tried with the same operations done and the same value is not tried again.
 */
export function isLinearizable(history: readonly Operation[]): boolean {
  const operations = [...history].sort((a, b) => a.calledAt - b.calledAt);
  const tried = new Set<string>();
  const search = (done: ReadonlySet<number>, value: string | null): boolean => {
    const rest = operations.map((_, i) => i).filter((i) => !done.has(i));
    const at = (i: number): Operation => operations[i] ?? fail();
    if (rest.every((i) => at(i).returnedAt === Infinity)) return true;
    const state = `${rest.join()} ${value ?? ''}`;
    if (tried.has(state)) return false;
    tried.add(state);
    const firstReturn = Math.min(...rest.map((i) => at(i).returnedAt));
    return rest.some((i) => {
      const operation = at(i);
      // what was called after another had returned cannot come before it
      if (operation.calledAt > firstReturn) return false;
      if (operation.type === 'get' && operation.value !== value) return false;
      const next = operation.type === 'put' ? operation.value : value;
      return search(new Set([...done, i]), next);
    });
  };
  return search(new Set(), null);
}

function fail(): never {
  throw new Error('no such operation');
}
