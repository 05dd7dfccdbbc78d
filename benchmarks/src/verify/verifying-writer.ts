import type { NbdClient } from 'nbd-client-js';
import { AckLog, ackLogKinds, readAckLog } from './ack-log.ts';
import { replayAckLog } from './ack-history.ts';
import { LiveReads } from './live-reads.ts';
import { sectorBytes, stampSectors } from './stamp.ts';
import { WorkloadPicker, type WorkloadRequest } from './workload.ts';
import { WriteModel } from './write-model.ts';

/** What the writer needs of a connection, one that reconnects or one that does not. */
export type WriterClient = Pick<NbdClient, 'read' | 'write' | 'writeZeroes' | 'flush'>;

export interface WriterOptions {
  clients: readonly WriterClient[];
  logPath: string;
  /** the range of the volume that is the writer's own (bytes, multiples of 4 KiB) */
  offset: number;
  length: number;
  seed: number;
  /** requests in flight, over all connections together */
  depth: number;
  /** stops after so many writes; Infinity: until stopped or disconnected */
  writes: number;
  /** one FLUSH after so many acknowledgements; 0: never */
  flushEvery: number;
  /** upper bound of writes per second; 0: none */
  rate: number;
  /** share of the writes whose range is read again right after, and compared (0 to 1) */
  readShare: number;
  signal: AbortSignal;
}

export interface WriterSummary {
  ended: 'done' | 'stopped' | 'broken';
  issued: number;
  acknowledged: number;
  acknowledgedSinceFlush: number;
  flushes: number;
  reads: number;
  elapsedMs: number;
  errors: string[];
  /** what a read found that no write allows; the writer stops at the first */
  wrongReads: string[];
}

const maxErrors = 10;

/**
 * Writes unique contents at random places and notes every step in its log. It stops for good at the
 * first error: what an error means is for the test to say.
 */
export class VerifyingWriter {
  readonly #options: WriterOptions;
  readonly #log: AckLog;
  readonly #picker: WorkloadPicker;
  readonly #seed: number;
  readonly #model: WriteModel;
  readonly #reads: LiveReads;
  readonly #startedMs = performance.now();
  #sequence = 0;
  #broken = false;
  #flushing = false;
  #flushedAt = 0;
  /** ends the waits of those who keep to the rate */
  readonly #waiting = new Set<() => void>();
  readonly summary: WriterSummary = {
    ended: 'done',
    issued: 0,
    acknowledged: 0,
    acknowledgedSinceFlush: 0,
    flushes: 0,
    reads: 0,
    elapsedMs: 0,
    errors: [],
    wrongReads: [],
  };

  constructor(options: WriterOptions) {
    this.#options = options;
    const records = readAckLog(options.logPath);
    this.#log = new AckLog(options.logPath);
    if (records.length === 0) {
      this.#seed = options.seed;
      this.#model = new WriteModel(options.length / sectorBytes);
      this.#log.append(ackLogKinds.begin, options.seed, options.offset, options.length);
    } else {
      // A later run goes on in the same log: what an earlier one left in flight is over.
      const history = replayAckLog(records);
      if (history.offset !== options.offset || history.length !== options.length) {
        throw new Error(`${options.logPath} is the log of another range`);
      }
      this.#seed = history.seed;
      this.#model = history.model;
      this.#sequence = history.lastSequence;
      for (const sequence of unanswered(records)) {
        this.#log.append(ackLogKinds.givenUp, sequence, 0, 0);
      }
    }
    this.#reads = new LiveReads(this.#model, this.#seed, options.offset);
    this.#picker = new WorkloadPicker(
      options.seed + this.#sequence,
      options.offset,
      options.length,
    );
  }

  progress(): { acknowledged: number; acknowledgedSinceFlush: number } {
    const { acknowledged } = this.summary;
    return { acknowledged, acknowledgedSinceFlush: acknowledged - this.#flushedAt };
  }

  async run(): Promise<WriterSummary> {
    const { depth, clients, signal } = this.#options;
    const workers = Array.from({ length: depth }, (_, index) => {
      const client = clients[index % clients.length];
      if (!client) throw new Error('no connection given');
      return this.#work(client);
    });
    // one listener for all of them: there may be dozens, and other writers with the same signal
    const wake = (): void => {
      for (const each of [...this.#waiting]) each();
    };
    signal.addEventListener('abort', wake, { once: true });
    await Promise.all(workers);
    signal.removeEventListener('abort', wake);
    this.#log.close();
    this.summary.elapsedMs = performance.now() - this.#startedMs;
    Object.assign(this.summary, this.progress());
    if (this.#broken) this.summary.ended = 'broken';
    else if (signal.aborted) this.summary.ended = 'stopped';
    return this.summary;
  }

  async #work(client: WriterClient): Promise<void> {
    const { signal, writes } = this.#options;
    const buffer = Buffer.alloc(WorkloadPicker.maxRequestBytes);
    while (!signal.aborted && !this.#broken && this.summary.issued < writes) {
      this.summary.issued += 1;
      await this.#pace();
      const request = this.#picker.next();
      await this.#writeOne(client, request, buffer);
      await this.#readIfDue(client, request);
      await this.#flushIfDue(client);
    }
  }

  async #writeOne(client: WriterClient, request: WorkloadRequest, buffer: Buffer): Promise<void> {
    const { offset, length, zero } = request;
    this.#sequence += 1;
    const sequence = this.#sequence;
    const id = zero ? -sequence : sequence;
    this.#log.append(zero ? ackLogKinds.zero : ackLogKinds.write, sequence, offset, length);
    const firstSector = (offset - this.#options.offset) / sectorBytes;
    this.#model.issue(id, firstSector, length / sectorBytes);
    this.#reads.issued(id, offset, length);
    try {
      if (zero) {
        await client.writeZeroes(offset, length);
      } else {
        const count = length / sectorBytes;
        stampSectors(buffer, 0, offset / sectorBytes, count, sequence, this.#seed);
        await client.write(offset, buffer.subarray(0, length));
      }
      this.#log.append(ackLogKinds.acknowledged, sequence, 0, 0);
      this.#model.acknowledge(id);
      this.summary.acknowledged += 1;
    } catch (error) {
      this.#log.append(ackLogKinds.givenUp, sequence, 0, 0);
      this.#model.giveUp(id);
      this.#fail(error);
    }
  }

  /** Reads what was written a moment ago, whoever else writes there meanwhile. */
  async #readIfDue(client: WriterClient, { offset, length }: WorkloadRequest): Promise<void> {
    const { readShare } = this.#options;
    if (this.#broken || this.summary.reads >= this.summary.acknowledged * readShare) return;
    this.summary.reads += 1;
    const read = this.#reads.begin(offset, length);
    try {
      const problems = this.#reads.finish(read, await client.read(offset, length));
      if (problems.length === 0) return;
      this.#broken = true;
      this.summary.wrongReads.push(...problems.slice(0, maxErrors));
    } catch (error) {
      this.#reads.drop(read);
      this.#fail(error);
    }
  }

  async #flushIfDue(client: WriterClient): Promise<void> {
    const { flushEvery } = this.#options;
    const acknowledged = this.summary.acknowledged;
    if (flushEvery === 0 || this.#flushing || acknowledged - this.#flushedAt < flushEvery) return;
    this.#flushing = true;
    try {
      this.#log.append(ackLogKinds.flushSent, 0, 0, 0);
      await client.flush();
      this.#log.append(ackLogKinds.flushed, 0, 0, 0);
      this.#flushedAt = acknowledged;
      this.summary.flushes += 1;
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#flushing = false;
    }
  }

  /** Waits until the issued writes fit the rate. */
  async #pace(): Promise<void> {
    const { rate, signal } = this.#options;
    if (rate === 0) return;
    const dueMs = this.#startedMs + (this.summary.issued * 1_000) / rate;
    const waitMs = dueMs - performance.now();
    if (waitMs <= 1 || signal.aborted) return;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(done);
        resolve();
      };
      const timer = setTimeout(done, waitMs);
      this.#waiting.add(done);
    });
  }

  #fail(error: unknown): void {
    this.#broken = true;
    const text = error instanceof Error ? error.message : String(error);
    if (this.summary.errors.length < maxErrors) this.summary.errors.push(text);
  }
}

function unanswered(records: ReturnType<typeof readAckLog>): number[] {
  const open = new Set<number>();
  for (const { kind, sequence } of records) {
    if (kind === ackLogKinds.write || kind === ackLogKinds.zero) open.add(sequence);
    if (kind === ackLogKinds.acknowledged || kind === ackLogKinds.givenUp) open.delete(sequence);
  }
  return [...open];
}
