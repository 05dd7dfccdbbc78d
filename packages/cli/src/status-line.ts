import type { StorctlIo } from './command-context.ts';

/** Width used where nobody says how wide the terminal is. */
const defaultColumns = 100;

/** What a waiting command says on stderr: one line that is redrawn, or new lines in a log. */
export class StatusLine {
  readonly #io: StorctlIo;
  readonly #quiet: boolean;
  #shown = '';

  constructor(io: StorctlIo, quiet: boolean) {
    this.#io = io;
    this.#quiet = quiet;
  }

  /** `key`: what of the text is worth a new line in a log, where counters are not. */
  show(text: string, key: string): void {
    if (this.#quiet) return;
    const io = this.#io;
    if (io.isTty) {
      const width = (io.columns?.() ?? defaultColumns) - 1;
      io.stderr.write(`\r\u001b[K${text.slice(0, width)}`);
    } else if (key !== this.#shown) {
      io.stderr.write(`${text}\n`);
    }
    this.#shown = key;
  }

  /** Takes the line away again. Works twice. */
  clear(): void {
    if (this.#shown !== '' && this.#io.isTty) this.#io.stderr.write('\r\u001b[K');
    this.#shown = '';
  }
}
