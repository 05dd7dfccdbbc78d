import type { WatchEvent, WatchOptions } from '@stor/protocol';

/** The watch of a fake cluster: it tells what the test says. */
export class FakeWatch {
  /** what was asked for */
  readonly asked: WatchOptions[] = [];
  readonly #events: (WatchEvent | Error)[] = [];
  #wake: () => void = () => {};

  /** Told one after the other; an error ends the watch. */
  tell(...events: (WatchEvent | Error)[]): void {
    this.#events.push(...events);
    this.#wake();
  }

  watch = (options: WatchOptions = {}): AsyncIterable<WatchEvent> => {
    this.asked.push(options);
    return this.#run(options.signal);
  };

  async *#run(signal: AbortSignal | undefined): AsyncGenerator<WatchEvent> {
    signal?.addEventListener('abort', () => {
      this.#wake();
    });
    while (signal?.aborted !== true) {
      const event = this.#events.shift();
      if (event instanceof Error) throw event;
      if (event) yield event;
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}
