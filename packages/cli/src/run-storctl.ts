import { CommanderError } from 'commander';
import { StorError, exitCodeOf } from '@stor/protocol';
import { systemClock } from '@stor/runtime/clock';
import { expandCommandWords } from './core/command-words.ts';
import { parseDurationMs } from './core/duration.ts';
import { nbdTlsOf } from './core/nbd-tls.ts';
import type { CommandContext, RunAction, StorctlIo } from './command-context.ts';
import { withGuards } from './change-guards.ts';
import { findEndpoints } from './endpoints.ts';
import { ExitStatus } from './exit-status.ts';
import { Printer, parseOutputFormat } from './printer.ts';
import { buildProgram, commandWordsOf } from './program.ts';

/** A call of the API that has no answer by then fails with TIMEOUT (exit 124). */
const defaultTimeoutMs = 60_000;
/** After Ctrl-C or a timeout an action gets this long to remove its temporary files. */
const cleanUpMs = 3_000;

/**
 * Runs one storctl command line and resolves with the exit code (docs/operating/exit-codes.md).
 * Never rejects: what goes wrong is printed to stderr.
 *
 * @param argv the words after `storctl`
 */
export async function runStorctl(argv: readonly string[], io: StorctlIo): Promise<number> {
  let command: readonly string[] = [];
  try {
    const program = buildProgram(io, runActionWith(io));
    const expanded = expandCommandWords(argv, commandWordsOf(program));
    if (expanded.kind === 'ambiguous') {
      throw new StorError(
        'INVALID_ARGUMENT',
        `command ${JSON.stringify(expanded.word)} is ambiguous: it may be ${expanded.candidates.join(', ')}`,
      );
    }
    command = expanded.command;
    await program.parseAsync(expanded.argv, { from: 'user' });
    return 0;
  } catch (error) {
    return report(error, argv, command, io);
  }
}

function runActionWith(io: StorctlIo): RunAction {
  return async (globals, action, { longRunning = false } = {}) => {
    const timeout = globals['timeout'] as string | undefined;
    const timeoutMs = timeout === undefined ? null : parseDurationMs(timeout);
    const print = new Printer(io.stdout, {
      format: parseOutputFormat(globals['output'] as string),
      headers: globals['headers'] as boolean,
      quiet: globals['quiet'] === true,
    });
    const endpoints = findEndpoints({
      flag: globals['endpoints'] as string | undefined,
      env: io.env,
      cwd: io.cwd,
      programDir: io.programDir ?? null,
    });
    const callMs = timeoutMs ?? defaultTimeoutMs;
    const limitMs = timeoutMs ?? (longRunning ? null : defaultTimeoutMs);
    const clock = io.clock ?? systemClock;
    const stopped: StopTexts = {
      interrupted: 'what was asked for may be half done: look before you repeat it',
      late: (seconds) =>
        `no answer within ${seconds} s; a change may still take effect: look before you repeat it, or give more time with --timeout`,
    };
    await withLimit(io.signal, limitMs, stopped, async (signal) => {
      const api = await io.openApi({ endpoints, timeoutMs: callMs });
      try {
        const context: CommandContext = {
          nbdTls: nbdTlsOf(globals, io.env),
          api: withGuards(api, globals),
          io,
          print,
          call: { signal, timeoutMs: callMs },
          signal,
          clock,
          nowMs: clock.wallMs(),
          goesOn(text) {
            stopped.interrupted = text;
            stopped.late = (seconds) => `not done within ${seconds} s; ${text}`;
          },
        };
        await action(context);
      } finally {
        await api.close();
      }
    });
  };
}

/** What the error says when a command is stopped; a command may know better while it runs. */
interface StopTexts {
  interrupted: string;
  late: (seconds: number) => string;
}

/**
 * Runs `work` until it ends, the caller aborts or `limitMs` is over. Then `work` has a short time
 * to clean up, and the error says which of the two it was.
 */
async function withLimit(
  outer: AbortSignal | undefined,
  limitMs: number | null,
  texts: StopTexts,
  work: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const controller = new AbortController();
  let reason: StorError | null = null;
  let grace: NodeJS.Timeout | undefined;
  let giveUp: (error: StorError) => void = () => {};
  const gaveUp = new Promise<never>((_resolve, reject) => (giveUp = reject));
  const stop = (error: StorError) => {
    if (reason !== null) return;
    reason = error;
    controller.abort(error);
    grace = setTimeout(() => giveUp(error), cleanUpMs);
  };
  const interrupted = () => stop(new StorError('ABORTED', `interrupted; ${texts.interrupted}`));
  const limit =
    limitMs === null
      ? undefined
      : setTimeout(() => stop(new StorError('TIMEOUT', texts.late(limitMs / 1000))), limitMs);
  if (outer?.aborted === true) interrupted();
  outer?.addEventListener('abort', interrupted);
  const running = work(controller.signal);
  // When `gaveUp` wins the race nobody else waits for `running`.
  running.catch(() => {});
  try {
    await Promise.race([running, gaveUp]);
  } catch (error) {
    throw error instanceof ExitStatus ? error : (reason ?? error);
  } finally {
    clearTimeout(limit);
    clearTimeout(grace);
    outer?.removeEventListener('abort', interrupted);
  }
}

/** Prints what went wrong and returns the exit code. */
function report(
  error: unknown,
  argv: readonly string[],
  command: readonly string[],
  io: StorctlIo,
): number {
  if (error instanceof ExitStatus) return error.status;
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0;
    // Commander has printed the help of a noun without a verb; other errors are printed here.
    if (error.code === 'commander.help') return exitCodeOf.INVALID_ARGUMENT;
    const message = error.message.replace(/^error: /, '').replaceAll(/\s*\n\s*/g, ' ');
    const help = ['storctl', ...command, '--help'].join(' ');
    const hint = `${message.replace(/\.$/, '')}; "${help}" shows what is possible`;
    return printError(new StorError('INVALID_ARGUMENT', hint), argv, io);
  }
  return printError(StorError.from(error), argv, io);
}

function printError(error: StorError, argv: readonly string[], io: StorctlIo): number {
  const exitCode = exitCodeOf[error.code];
  io.stderr.write(`error: ${error.message}\n`);
  if (wantsJson(argv)) {
    const body = { code: error.code, message: error.message, details: error.details, exitCode };
    io.stderr.write(`${JSON.stringify({ error: body })}\n`);
  }
  if (error.code === 'INTERNAL' && io.env['STOR_DEBUG'] !== undefined) {
    const cause = error.cause instanceof Error ? error.cause : error;
    io.stderr.write(`${cause.stack ?? ''}\n`);
  }
  return exitCode;
}

/** The command line may be what is wrong, so this looks at the words themselves. */
function wantsJson(argv: readonly string[]): boolean {
  const end = argv.indexOf('--');
  const words = end < 0 ? argv : argv.slice(0, end);
  return words.some(
    (word, at) =>
      word === '-ojson' ||
      word === '--output=json' ||
      ((word === '-o' || word === '--output') && words[at + 1] === 'json'),
  );
}
