import type { NbdClient } from 'nbd-client-js';
import { turn } from './export-cluster.ts';

export const blockBytes = 4096;

/** A client that writes numbers into blocks and reads them back; one request per block at a time. */
export class BlockLoad {
  readonly #client: Pick<NbdClient, 'read' | 'write' | 'flush'>;
  readonly #values: number[];
  readonly #busy = new Set<number>();
  readonly #chance: () => number;
  readonly #first: number;
  done = 0;
  #stopped = false;

  constructor(
    client: Pick<NbdClient, 'read' | 'write' | 'flush'>,
    first: number,
    blocks: number,
    chance: () => number,
  ) {
    this.#client = client;
    this.#first = first;
    this.#values = new Array<number>(blocks).fill(0);
    this.#chance = chance;
  }

  /** `workers` requests at once, until `stop`. */
  async run(workers: number): Promise<void> {
    await Promise.all(Array.from({ length: workers }, () => this.#work()));
  }

  stop(): void {
    this.#stopped = true;
  }

  async check(): Promise<void> {
    for (const block of this.#values.keys()) await this.#read(block);
  }

  async #work(): Promise<void> {
    while (!this.#stopped) {
      const block = Math.floor(this.#chance() * this.#values.length);
      if (this.#busy.has(block)) {
        await turn();
        continue;
      }
      this.#busy.add(block);
      const what = this.#chance();
      if (what < 0.1) await this.#client.flush();
      else if (what < 0.4) await this.#read(block);
      else await this.#write(block);
      this.#busy.delete(block);
      this.done += 1;
    }
  }

  async #write(block: number): Promise<void> {
    const value = (this.#values[block] ?? 0) + 1;
    const bytes = Buffer.alloc(blockBytes);
    bytes.writeUInt32BE(value, 0);
    bytes.writeUInt32BE(value, blockBytes - 4);
    await this.#client.write((this.#first + block) * blockBytes, bytes);
    this.#values[block] = value;
  }

  async #read(block: number): Promise<void> {
    const bytes = await this.#client.read((this.#first + block) * blockBytes, blockBytes);
    const found = [bytes.readUInt32BE(0), bytes.readUInt32BE(blockBytes - 4)];
    const value = this.#values[block];
    if (found.some((each) => each !== value)) {
      throw new Error(`block ${this.#first + block} is ${found.join('/')}, not ${value}`);
    }
  }
}
