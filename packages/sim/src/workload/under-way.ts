interface Change {
  owner: object;
  from: number;
  to: number;
}

/**
 * Changes of one volume that are not answered. What a reconnecting client, or a node that relays for a
 * plain one, sends again takes effect twice: so nobody else may change the place meanwhile, as nobody
 * would whose file system has a request under way there.
 */
export class UnderWay {
  readonly #changes = new Set<Change>();

  /** No other owner has a change in sectors [from, to). */
  isFree(owner: object, from: number, to: number): boolean {
    for (const change of this.#changes) {
      if (change.owner !== owner && change.from < to && from < change.to) return false;
    }
    return true;
  }

  /** Call what it returns when the change is over. */
  begin(owner: object, from: number, to: number): () => void {
    const change = { owner, from, to };
    this.#changes.add(change);
    return () => {
      this.#changes.delete(change);
    };
  }
}
