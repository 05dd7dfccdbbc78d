import type { BackgroundClass } from '@stor/protocol';

import type { BackgroundTurn, BackgroundTurns } from '../background-turns.ts';
import type { Member } from './member.ts';

/**
 * Turns for the pieces of one resync or scrub. They are asked of the nodes of the other replicas first
 * and of the own lane last: only a turn here is held, so no two primaries wait for each other.
 */
export class PieceTurns {
  readonly #turns: BackgroundTurns;
  readonly #again: () => void;
  #asked = 0;
  readonly #ready: BackgroundTurn[] = [];
  /** what was asked for before the last `drop` counts no more */
  #round = 0;
  #isAsking = false;

  /** `again`: a turn has come that was not there when `want` returned. */
  constructor(turns: BackgroundTurns, again: () => void) {
    this.#turns = turns;
    this.#again = again;
  }

  /** Asks until so many are there or on their way; true: one is there. */
  want(
    count: number,
    ofClass: BackgroundClass,
    bytes: number,
    members: readonly Member[],
  ): boolean {
    this.#isAsking = true;
    while (this.#asked + this.#ready.length < count) this.#ask(ofClass, bytes, members);
    this.#isAsking = false;
    return this.#ready.length > 0;
  }

  use(): BackgroundTurn {
    const turn = this.#ready.shift();
    if (!turn) throw new Error('a turn was used that has not come');
    return turn;
  }

  /** None is wanted any more, for now. */
  drop(): void {
    this.#round += 1;
    this.#asked = 0;
    for (const turn of this.#ready.splice(0)) turn.end();
  }

  #ask(ofClass: BackgroundClass, bytes: number, members: readonly Member[]): void {
    const round = this.#round;
    const isWanted = (): boolean => round === this.#round;
    this.#asked += 1;
    // one more than there are members: what they say at once must not be taken for all
    let left = members.length + 1;
    const next = (): void => {
      left -= 1;
      if (left > 0 || !isWanted()) return;
      this.#turns.ask(ofClass, bytes, isWanted, (turn) => {
        this.#asked -= 1;
        this.#ready.push(turn);
        if (!this.#isAsking) this.#again();
      });
    };
    for (const member of members) member.askTurn(ofClass, bytes, next);
    next();
  }
}
