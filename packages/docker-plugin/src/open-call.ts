/** One call while it is under way. */
export interface OpenCall {
  /** its reason is what the caller is told */
  signal: AbortSignal;
  /** for people, when it takes too long */
  waitsFor(what: string): void;
  /**
   * Answers, once. Resolves when the caller has the answer (true) or is known not to get it. Whoever holds the
   * volume's turn waits for that: the same call, sent again, comes next.
   */
  answer(body: object): Promise<boolean>;
}
