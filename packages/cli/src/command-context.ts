import type { CallOptions, StorApi, WatchApi } from '@stor/protocol';
import type { Clock } from '@stor/runtime/clock';
import type { NbdTlsOptions } from 'nbd-client-js';
import type { NbdOpener } from './nbd-session.ts';
import type { Printer, TextSink } from './printer.ts';

/** Shows how far a transfer or a measurement is; lives on the terminal until `stop`. */
export interface Progress {
  /** in the unit of the total: bytes, or ms */
  update(done: number): void;
  stop(): void;
}

export type ApiClient = StorApi & WatchApi & { close(): void | Promise<void> };

/** The world around one run of storctl. Tests give a fake of each part. */
export interface StorctlIo {
  openApi: (options: { endpoints: string[]; timeoutMs: number }) => ApiClient | Promise<ApiClient>;
  openNbd: NbdOpener;
  stdout: TextSink;
  /** errors, progress and questions */
  stderr: TextSink;
  env: Readonly<Record<string, string | undefined>>;
  cwd: string;
  /** a person is there: questions and progress bars make sense */
  isTty: boolean;
  /** Asks a question and resolves with the answer. Called only when `isTty`. */
  ask?: (question: string) => Promise<string>;
  /**
   * Opens a progress bar. Called only when `isTty`. `format` says the total to people; default: as bytes.
   */
  progress?: (label: string, total: number, format?: (total: number) => string) => Progress;
  /** folder of the program: a checkout's cluster is found from there too */
  programDir?: string | null;
  /** aborts on Ctrl-C */
  signal?: AbortSignal;
  /** width of the terminal that stdout is; absent when it is none */
  columns?: () => number;
  /** default: the machine's */
  clock?: Clock;
  version?: string;
}

/** What the action of one command gets. */
export interface CommandContext {
  api: StorApi & WatchApi;
  io: StorctlIo;
  print: Printer;
  /** how NBD is spoken over TLS; null: as the address says */
  nbdTls: NbdTlsOptions | null;
  /** signal and time for each call of the API */
  call: CallOptions;
  signal: AbortSignal;
  clock: Clock;
  /** ms since 1970, when the command began */
  nowMs: number;
  /** From now on an interruption or a timeout says this: what was asked for goes on by itself. */
  goesOn(text: string): void;
}

/** Runs an action with an open API client; `longRunning`: no time limit unless one is given. */
export type RunAction = (
  globals: Record<string, unknown>,
  action: (context: CommandContext) => Promise<void>,
  options?: { longRunning?: boolean },
) => Promise<void>;
