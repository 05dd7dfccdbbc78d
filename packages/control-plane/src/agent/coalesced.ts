/**
 * `run`, one at a time: calls that come while it runs lead to one more run after it, together. Each
 * resolves, or rejects, with the last run.
 */
export function coalesced(run: () => Promise<void>): () => Promise<void> {
  let running: Promise<void> | null = null;
  let isWanted = false;
  const runAll = async (): Promise<void> => {
    try {
      while (isWanted) {
        isWanted = false;
        await run();
      }
    } finally {
      running = null;
    }
  };
  return () => {
    isWanted = true;
    running ??= runAll();
    return running;
  };
}
