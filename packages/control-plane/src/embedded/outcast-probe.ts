import { hasCode } from '@stor/protocol';
import type { StorError } from '@stor/protocol';
import type { Clock } from '@stor/runtime';
import type { RpcChannel } from '../rpc/rpc-transport.ts';
import { encodeEnvelope } from '../core/kv/envelope.ts';

/** Another member is asked so often while nobody leads here (ms). */
const askEveryMs = 1_000;
/** And has so long to answer (ms). */
const answerMs = 1_000;
/** What was said so long ago (ms), before somebody led again, says nothing of now. */
const staleMs = 5_000;

interface OutcastProbeOptions {
  /** ids of the others */
  others: () => string[];
  endpoint: (id: string) => Pick<RpcChannel, 'call'> | null;
  metadata: (to: string) => Record<string, string>;
  clock: Clock;
  /** ends what is under way */
  signal: AbortSignal;
}

/**
 * Finds out why nobody leads here. A member that the others have let go hears nothing from them, as if
 * they were all down; but one that is asked refuses it, and says why.
 */
export class OutcastProbe {
  readonly #options: OutcastProbeOptions;
  #refusal: StorError | null = null;
  #askedMs = -Infinity;
  #turn = 0;

  constructor(options: OutcastProbeOptions) {
    this.#options = options;
  }

  /** Call while nobody leads: what the last one that answered has said; null: nothing against this member. */
  refusal(): StorError | null {
    const { clock, others } = this.#options;
    const nowMs = clock.monotonicMs();
    if (nowMs - this.#askedMs < askEveryMs) return this.#refusal;
    if (nowMs - this.#askedMs > staleMs) this.#refusal = null;
    this.#askedMs = nowMs;
    const ids = others();
    const id = ids[this.#turn % ids.length];
    this.#turn += 1;
    if (id !== undefined) void this.#ask(id);
    return this.#refusal;
  }

  async #ask(id: string): Promise<void> {
    const { endpoint, metadata, signal } = this.#options;
    const call = {
      method: 'Members',
      request: encodeEnvelope({}),
      timeoutMs: answerMs,
      connectTimeoutMs: answerMs,
      metadata: metadata(id),
      signal,
    };
    const outcome = await endpoint(id)
      ?.call(call)
      .catch(() => null);
    // one that does not answer says nothing
    if (outcome?.type === 'answered') this.#refusal = null;
    if (outcome?.type === 'refused' && hasCode(outcome.error, 'PERMISSION_DENIED')) {
      this.#refusal = outcome.error;
    }
  }
}
