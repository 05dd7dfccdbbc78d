import type { BackgroundClass } from '@stor/protocol';

/** The right to do one piece of work beside clients; whoever has it says when the piece is over. */
export interface BackgroundTurn {
  end(): void;
}

/**
 * How a lane shares itself between clients and what the cluster does for itself: rebuild, resync, scrub,
 * backup. A turn is asked for before anything that clients need is held: it may be long in coming.
 */
export interface BackgroundTurns {
  /**
   * `begin` is called when a piece of so many bytes may begin: before this returns, or later; never when
   * `isWanted` says no by then.
   */
  ask(
    ofClass: BackgroundClass,
    bytes: number,
    isWanted: () => boolean,
    begin: (turn: BackgroundTurn) => void,
  ): void;
  /** For a piece that must not wait: it is counted, and others wait for it. */
  take(ofClass: BackgroundClass, bytes: number): BackgroundTurn;
}

const noTurn: BackgroundTurn = { end: () => {} };

/** Of a lane that nobody else uses. */
export const freeTurns: BackgroundTurns = {
  ask: (_ofClass, _bytes, isWanted, begin) => {
    if (isWanted()) begin(noTurn);
  },
  take: () => noTurn,
};
