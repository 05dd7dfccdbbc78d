import type { KvResult } from './kv-state.ts';

export interface RememberedRequest {
  id: string;
  /** which command it was, counted from 1 */
  sequence: number;
  result: KvResult;
}

/**
 * The outcome of the latest requests. A bound means that some are forgotten; `forgottenUpTo` makes
 * that safe: a request made before it that is not found here may have been applied, and is refused.
 */
export class RememberedRequests {
  readonly #byId = new Map<string, RememberedRequest>();
  readonly #maxRequests: number;
  #forgottenUpTo = 0;

  constructor(maxRequests: number) {
    this.#maxRequests = maxRequests;
  }

  /** sequence of the newest forgotten request; 0: none */
  get forgottenUpTo(): number {
    return this.#forgottenUpTo;
  }

  find(id: string): KvResult | null {
    return this.#byId.get(id)?.result ?? null;
  }

  add(request: RememberedRequest): void {
    this.#byId.set(request.id, request);
    if (this.#byId.size <= this.#maxRequests) return;
    for (const oldest of this.#byId.values()) {
      this.#forgottenUpTo = oldest.sequence;
      this.#byId.delete(oldest.id);
      return;
    }
  }

  /** oldest first */
  all(): Iterable<RememberedRequest> {
    return this.#byId.values();
  }

  restore(forgottenUpTo: number, requests: Iterable<RememberedRequest>): void {
    this.#byId.clear();
    this.#forgottenUpTo = forgottenUpTo;
    for (const request of requests) this.#byId.set(request.id, request);
  }
}
