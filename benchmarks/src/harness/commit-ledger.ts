import { spawn, type ChildProcess } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import type { PostgresServer } from './postgres-server.ts';

/** Rows of one writer have numbers from its own million millions. */
const idsOfWriter = 1_000_000_000_000;
/** Time between two attempts to reach a server that is away (ms). */
const reconnectMs = 200;

export interface LedgerCheck {
  acknowledged: number;
  /** acknowledged, and not there */
  lost: number[];
  /** there, and never sent; or only one half of a transaction */
  wrong: string[];
}

/**
 * Writes transactions of two halves (a row, and the writer's count of rows) and notes every COMMIT that was
 * answered: here, outside of the volume. A transaction whose answer did not come is not sent again: it may be
 * there or not.
 */
export class CommitLedger {
  readonly #server: PostgresServer;
  readonly #writers: number;
  readonly #acknowledged: number[] = [];
  /** numbers that each writer has sent */
  readonly #sent: number[];
  readonly #children = new Set<ChildProcess>();
  #stopping = false;
  #running: Promise<void>[] = [];
  #lastMs = 0;
  /** longest time between two answers, of whichever writer, since `watchPause` (ms) */
  #pauseMs = 0;

  constructor(server: PostgresServer, writers: number) {
    this.#server = server;
    this.#writers = writers;
    this.#sent = Array.from({ length: writers }, () => 0);
  }

  get acknowledged(): number {
    return this.#acknowledged.length;
  }

  async createTables(): Promise<void> {
    await this.#server.sql(
      `CREATE TABLE ledger (id bigint PRIMARY KEY, filler text NOT NULL);
       CREATE TABLE counts (writer int PRIMARY KEY, n bigint NOT NULL);
       INSERT INTO counts SELECT w, 0 FROM generate_series(0, ${this.#writers - 1}) w`,
    );
  }

  /** Begins to write, and goes on over ends of the server. */
  start(): void {
    this.#stopping = false;
    this.watchPause();
    this.#running = this.#sent.map((_, writer) => this.#write(writer));
  }

  watchPause(): void {
    this.#pauseMs = 0;
    this.#lastMs = performance.now();
  }

  get longestPauseMs(): number {
    return Math.max(this.#pauseMs, performance.now() - this.#lastMs);
  }

  /** Waits for the answers that are due, unless the server is away. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#running);
  }

  /** Ends the clients at once, as the death of their host would. */
  kill(): void {
    this.#stopping = true;
    for (const child of this.#children) child.kill('SIGKILL');
  }

  /** Compares what is there with what was answered. */
  async check(): Promise<LedgerCheck> {
    const rows = (await this.#server.sql('SELECT id FROM ledger ORDER BY id')).map(Number);
    const there = new Set(rows);
    const wrong: string[] = [];
    for (const id of rows) {
      const writer = Math.floor(id / idsOfWriter);
      if (!((this.#sent[writer] ?? 0) >= id % idsOfWriter)) wrong.push(`row ${id} was never sent`);
    }
    const halves = await this.#server.sql(
      `SELECT writer, n, (SELECT count(*) FROM ledger WHERE id / ${idsOfWriter} = writer) FROM counts`,
    );
    for (const half of halves) {
      const [writer, counted, found] = half.split('|');
      if (counted !== found) wrong.push(`writer ${writer}: ${counted} counted, ${found} rows`);
    }
    const lost = this.#acknowledged.filter((id) => !there.has(id));
    return { acknowledged: this.#acknowledged.length, lost, wrong };
  }

  async #write(writer: number): Promise<void> {
    while (!this.#stopping) {
      await this.#session(writer);
      if (!this.#stopping) await delay(reconnectMs);
    }
  }

  /** One psql until it ends, by itself or because we stop: the next transaction follows each answer. */
  #session(writer: number): Promise<void> {
    const options = [...this.#server.session, '-X', '-v', 'ON_ERROR_STOP=1'];
    const [program, args] = this.#server.command('psql', options);
    const child = spawn(program, args, { cwd: '/', stdio: ['pipe', 'pipe', 'ignore'] });
    this.#children.add(child);
    let partial = '';
    let id = 0;
    const next = (): void => {
      if (this.#stopping) {
        child.stdin.end();
        return;
      }
      const number = (this.#sent[writer] ?? 0) + 1;
      this.#sent[writer] = number;
      id = writer * idsOfWriter + number;
      child.stdin.write(
        `BEGIN; INSERT INTO ledger VALUES (${id}, repeat('x', 100)); ` +
          `UPDATE counts SET n = n + 1 WHERE writer = ${writer}; COMMIT;\n`,
      );
    };
    child.stdout.on('data', (chunk: Buffer) => {
      const lines = (partial + chunk.toString('utf8')).split('\n');
      partial = lines.pop() ?? '';
      // psql says ROLLBACK of a transaction that failed
      if (!lines.includes('COMMIT')) return;
      this.#noteCommit(id);
      next();
    });
    // a client that has ended takes no more: its end is waited for
    child.stdin.on('error', () => undefined);
    next();
    return new Promise((resolve) => {
      const over = (): void => {
        this.#children.delete(child);
        resolve();
      };
      child.once('close', over);
      child.once('error', over);
    });
  }

  #noteCommit(id: number): void {
    this.#acknowledged.push(id);
    const nowMs = performance.now();
    this.#pauseMs = Math.max(this.#pauseMs, nowMs - this.#lastMs);
    this.#lastMs = nowMs;
  }
}
