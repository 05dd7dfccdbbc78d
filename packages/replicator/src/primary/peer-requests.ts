import { StorError, type PeerHeader } from '@stor/protocol';

import { CallAges } from '../core/replication/call-ages.ts';
import { maxAwakeStepMs } from '../replication/limits.ts';
import type { StoreDone } from '../replica-store.ts';

export type PeerReply = (
  error: StorError | null,
  header: PeerHeader | null,
  bytes: Buffer | null,
  body: number,
) => void;

/** What a member was asked on its channel and has not answered. */
export class PeerRequests {
  readonly ages = new CallAges(maxAwakeStepMs);
  readonly #replies = new Map<number, PeerReply>();
  readonly #flushes = new Map<number, StoreDone>();
  #copies: { sequence: number; done: StoreDone }[] = [];

  /** `isSync`: the member makes something durable before it answers. */
  asked(id: number, isSync: boolean, reply: PeerReply): void {
    this.#replies.set(id, reply);
    this.ages.begin(id, isSync);
  }

  /** As `asked`, of what may be answered at any time. */
  waiting(id: number, reply: PeerReply): void {
    this.#replies.set(id, reply);
  }

  flushing(id: number, done: StoreDone): void {
    this.#flushes.set(id, done);
    this.ages.begin(id, true);
  }

  copying(sequence: number, done: StoreDone): void {
    this.#copies.push({ sequence, done });
  }

  /** Takes the request's reply out; null when nobody waits for it any more. */
  answered(id: number): PeerReply | null {
    const reply = this.#replies.get(id) ?? null;
    this.#replies.delete(id);
    this.ages.end(id);
    return reply;
  }

  flushed(id: number): void {
    const done = this.#flushes.get(id);
    this.#flushes.delete(id);
    this.ages.end(id);
    done?.(null);
  }

  acknowledged(sequence: number): void {
    this.ages.acknowledged(sequence);
    while (this.#copies.length > 0) {
      const copy = this.#copies[0];
      if (!copy || copy.sequence > sequence) break;
      this.#copies.shift();
      copy.done(null);
    }
  }

  /** The channel is over. */
  fail(error: StorError): void {
    const failed =
      error.code === 'DISK_FAILED'
        ? error
        : new StorError('UNAVAILABLE', error.message, { cause: error });
    const replies = [...this.#replies.values()];
    const flushes = [...this.#flushes.values()];
    const copies = this.#copies;
    this.#replies.clear();
    this.#flushes.clear();
    this.#copies = [];
    this.ages.reset();
    for (const reply of replies) reply(failed, null, null, 0);
    for (const done of flushes) done(failed);
    for (const { done } of copies) done(failed);
  }
}
