import { readTextFile, writeTextFileDurably, type Files, type Logger } from '@stor/runtime';

const formatVersion = 1;

export interface MemberAddress {
  id: string;
  /** host:port of its server */
  address: string;
}

/**
 * Where members are to be found. What a configuration says stands; everything else is learned while
 * the member runs (from who joins, from the records, from whoever calls) and lies in a file beside
 * the Raft log, so that a member that was restarted knows whom to talk to before anybody leads.
 *
 * The file is a hint and no truth: who votes is in the Raft log alone. One that cannot be read or
 * written costs nothing as long as one other member knows where this one is.
 */
export class MemberBook {
  readonly #files: Files;
  readonly #file: string;
  readonly #logger: Logger;
  readonly #fixed: Map<string, string>;
  readonly #learned = new Map<string, string>();

  constructor(options: {
    files: Files;
    file: string;
    logger: Logger;
    fixed: readonly MemberAddress[];
  }) {
    this.#files = options.files;
    this.#file = options.file;
    this.#logger = options.logger;
    this.#fixed = new Map(options.fixed.map(({ id, address }) => [id, address]));
    for (const { id, address } of this.#read()) this.#learned.set(id, address);
  }

  address(id: string): string | null {
    return this.#fixed.get(id) ?? this.#learned.get(id) ?? null;
  }

  all(): MemberAddress[] {
    const all = new Map([...this.#learned, ...this.#fixed]);
    return [...all]
      .map(([id, address]) => ({ id, address }))
      .sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  /** Durable when it returns, unless the file cannot be written. */
  learn(members: readonly MemberAddress[]): void {
    let changed = false;
    for (const { id, address } of members) {
      if (address === '' || this.#fixed.has(id) || this.#learned.get(id) === address) continue;
      this.#learned.set(id, address);
      changed = true;
    }
    if (changed) this.#write();
  }

  #read(): MemberAddress[] {
    if (!this.#files.exists(this.#file)) return [];
    try {
      const { members } = JSON.parse(readTextFile(this.#files, this.#file)) as {
        members: MemberAddress[];
      };
      return members.filter(
        ({ id, address }) => typeof id === 'string' && typeof address === 'string',
      );
    } catch (error) {
      const fields = { file: this.#file, error: String(error) };
      this.#logger.warn(fields, 'the addresses of members cannot be read: they are learned anew');
      return [];
    }
  }

  #write(): void {
    const members = [...this.#learned].map(([id, address]) => ({ id, address }));
    const text = `${JSON.stringify({ format: formatVersion, members }, null, 2)}\n`;
    try {
      writeTextFileDurably(this.#files, this.#file, text);
    } catch (error) {
      const fields = { file: this.#file, error: String(error) };
      this.#logger.warn(
        fields,
        'the addresses of members cannot be kept: a restart may not know them',
      );
    }
  }
}
