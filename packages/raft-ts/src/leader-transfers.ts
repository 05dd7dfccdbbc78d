import { Pending } from './abortable.ts';
import type { RawNode } from './core/raw-node.ts';
import type { PeerId } from './core/types.ts';
import { RaftError } from './errors.ts';

/** Who waits here for leadership to be handed over. */
export class LeaderTransfers {
  #waiting: { to: PeerId; pending: Pending<void> }[] = [];

  wait(to: PeerId): Promise<void> {
    const pending = new Pending<void>(undefined, () => {});
    this.#waiting.push({ to, pending });
    return pending.promise;
  }

  /** Called after any input. */
  proceed(raw: RawNode): void {
    if (this.#waiting.length === 0) return;
    const { role, leaderId } = raw.status;
    if (role === 'leader' && raw.transferee !== null) return;
    if (role !== 'leader' && leaderId === null) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { to, pending } of waiting) {
      if (role !== 'leader') pending.resolve();
      else pending.reject(new RaftError('TIMED_OUT', `${to} has not taken over leadership`));
    }
  }

  stop(reason: RaftError): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const { pending } of waiting) pending.reject(reason);
  }
}
