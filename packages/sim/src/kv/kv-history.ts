import type { WatchEvent } from '@stor/control-plane';
import {
  isLinearizable,
  registerModel,
  type CalledOperation,
  type RegisterOperation,
} from 'raft-ts/testing';

type Call = CalledOperation<RegisterOperation>;

/** Steps of a search with every call of unknown outcome, before those are left out that nobody saw. */
const fullSteps = 200_000;

/**
 * What callers and watchers of the key-value store saw, and whether it fits together: each key is
 * linearizable, and all watchers see one history that holds every write that was answered.
 */
export class KvHistory {
  readonly #calls = new Map<string, Call[]>();
  /** changes by revision, as text */
  readonly #changes = new Map<number, string>();
  readonly #violations: string[] = [];
  /** writes that were answered: revision, key and value */
  readonly #written: { revision: number; key: string; value: string }[] = [];
  #time = 0;

  now(): number {
    return ++this.#time;
  }

  /** A call that has no answer yet; set `returnedAt` when it has. */
  called(key: string, operation: RegisterOperation): Call {
    const call = { operation, calledAt: this.now(), returnedAt: Infinity };
    const calls = this.#calls.get(key);
    if (calls) calls.push(call);
    else this.#calls.set(key, [call]);
    return call;
  }

  /** It is certain that nothing happened. */
  forget(key: string, call: Call): void {
    const calls = this.#calls.get(key) ?? [];
    calls.splice(calls.indexOf(call), 1);
  }

  wrote(revision: number, key: string, value: string): void {
    this.#written.push({ revision, key, value });
  }

  /** What a watcher of all keys saw; `after`: the revision of what it saw before. */
  watched(who: string, after: number, events: WatchEvent[]): number {
    const revision = events[0]?.revision ?? after;
    if (revision <= after) this.fail(`${who} saw revision ${revision} after ${after}`);
    const text = events.map(textOf).join(' ');
    const known = this.#changes.get(revision);
    if (known !== undefined && known !== text) {
      this.fail(`${who} saw at revision ${revision}: ${text}; others: ${known}`);
    }
    this.#changes.set(revision, text);
    for (let missed = after + 1; missed < revision; missed++) {
      // a revision that changed nothing that can be watched is seen by nobody
      if (this.#changes.has(missed)) this.fail(`${who} did not see revision ${missed}`);
    }
    return revision;
  }

  fail(reason: string): void {
    if (this.#violations.length < 10) this.#violations.push(reason);
  }

  get callCount(): number {
    return [...this.#calls.values()].reduce((sum, calls) => sum + calls.length, 0);
  }

  violations(): string[] {
    for (const { revision, key, value } of this.#written) {
      const text = this.#changes.get(revision) ?? 'nothing';
      if (!text.includes(`${key}=${value}`)) {
        this.fail(`${key}=${value} was answered with revision ${revision}, which is ${text}`);
      }
    }
    for (const [key, calls] of this.#calls) {
      const verdict =
        isLinearizable(calls, registerModel, fullSteps) ??
        isLinearizable(pruned(calls), registerModel);
      if (verdict === null) this.fail(`the history of ${key} is too much to check`);
      if (verdict === false) this.fail(`${key} is not linearizable: ${JSON.stringify(calls)}`);
    }
    return this.#violations;
  }
}

function textOf({ type, key, value }: WatchEvent): string {
  return type === 'put' ? `${key}=${new TextDecoder().decode(value ?? undefined)}` : `-${key}`;
}

/**
 * Without the writes of unknown outcome whose value nobody saw, and without compare-and-sets that
 * failed, which such a write may have caused: what is left is a weaker question, and a cheap one.
 */
function pruned(calls: Call[]): Call[] {
  const seen = new Set<string | null>();
  for (const { operation, returnedAt } of calls) {
    if (operation.type === 'read') seen.add(operation.seen);
    else if (operation.type === 'compareAndSet') seen.add(operation.expected);
    else if (returnedAt < Infinity) seen.add(operation.value);
  }
  return calls.filter(({ operation, returnedAt }) => {
    if (operation.type === 'compareAndSet' && operation.succeeded === false) return false;
    return returnedAt < Infinity || operation.type === 'read' || seen.has(operation.value);
  });
}
