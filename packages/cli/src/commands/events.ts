import type { Command } from 'commander';
import { hasCode, StorError } from '@stor/protocol';
import type { StorEvent } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import type { Column } from '../core/table.ts';
import { parseDurationMs } from '../core/duration.ts';
import { ExitStatus } from '../exit-status.ts';
import { pause } from '../pause.ts';
import { formatTime } from '../resource-views.ts';

/** Time between two looks of `--follow` (ms). */
const lookEveryMs = 1_000;
const interruptedStatus = 130;
/** Events shown unless `--limit` says otherwise. */
const defaultLimit = 200;
/** As many are kept. */
const maxLimit = 5_000;

interface EventOptions {
  follow?: true;
  volume?: string;
  limit?: string;
  warnings?: true;
  type?: string;
  reason?: string;
  since?: string;
}

type Wanted = (event: StorEvent) => boolean;

export function addEventsCommand(program: Command, run: RunAction): void {
  program
    .command('events')
    .description('what happened in the cluster: bad blocks, lost replicas, full disks, scrubs')
    .option('-f, --follow', 'go on showing what happens, until Ctrl-C')
    .option('--volume <volume>', 'only what is about this volume (name or id)')
    .option('--warnings', 'only what somebody should look at, as --type warning')
    .option('--type <type>', 'normal or warning')
    .option('--reason <reasons>', 'only these reasons, for example disk-full,disk-failed')
    .option('--since <time>', 'only what happened within this time, for example 2h')
    .option('--limit <n>', `the last so many (default: ${defaultLimit}, at most ${maxLimit})`)
    .addHelpText(
      'after',
      `
The newest comes last. The same thing within ten minutes is one event that counts up: COUNT, and LAST
is when it happened last. Events are kept for 7 days, 5,000 of them at most.

Examples:
  storctl events
  storctl events -f --volume db
  storctl events --warnings -o json
  storctl events --since 2h --reason disk-full,disk-failed`,
    )
    .action(async (options: EventOptions, command: Command) => {
      const limit = parseLimit(options.limit);
      const query = parseQuery(options);
      await run(
        command.optsWithGlobals(),
        (context) =>
          options.follow === true
            ? follow(context, { ...options, limit, query })
            : list(context, { ...options, limit, query }).then(({ events }) => {
                context.print.rows(events, eventColumns, ({ id }) => id);
              }),
        { longRunning: options.follow === true },
      );
    });
}

export const eventColumns: Column<StorEvent>[] = [
  { title: 'LAST', cell: ({ lastMs }) => formatTime(lastMs) },
  { title: 'TYPE', cell: ({ type }) => type },
  { title: 'REASON', cell: ({ reason }) => reason },
  { title: 'OBJECT', cell: ({ object }) => `${object.kind}/${object.name}` },
  { title: 'VOLUME', cell: ({ volume }) => volume, wide: true },
  { title: 'NODE', cell: ({ node }) => node },
  { title: 'COUNT', cell: ({ count }) => String(count), right: true },
  { title: 'FIRST', cell: ({ firstMs }) => formatTime(firstMs), wide: true },
  { title: 'MESSAGE', cell: ({ message }) => message },
];

interface Query {
  wanted: Wanted;
  /** it leaves something out */
  filters: boolean;
  sinceMs: number | null;
}

interface ListOptions {
  volume?: string;
  limit: number;
  query: Query;
}

/** INVALID_ARGUMENT */
function parseQuery({ type, warnings, reason, since }: EventOptions): Query {
  if (type !== undefined && type !== 'normal' && type !== 'warning') {
    throw new StorError(
      'INVALID_ARGUMENT',
      `--type ${JSON.stringify(type)} is not valid: use normal or warning`,
    );
  }
  if (warnings === true && type === 'normal') {
    throw new StorError(
      'INVALID_ARGUMENT',
      '--warnings and --type normal leave nothing: give one of the two',
    );
  }
  const onlyType = warnings === true ? 'warning' : type;
  const reasons = reason?.split(',').map((each) => each.trim());
  if (reasons?.some((each) => !/^[a-z][a-z0-9-]*$/.test(each)) === true) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `--reason ${JSON.stringify(reason)} is not valid: give reasons as the events show them, for example disk-full,disk-failed`,
    );
  }
  return {
    wanted: (event) =>
      (onlyType === undefined || event.type === onlyType) &&
      (reasons === undefined || reasons.includes(event.reason)),
    filters: onlyType !== undefined || reasons !== undefined || since !== undefined,
    sinceMs: since === undefined ? null : parseDurationMs(since),
  };
}

async function list(
  { api, call, nowMs }: CommandContext,
  { volume = '', limit, query }: ListOptions,
  afterRevision = 0,
): Promise<{ events: StorEvent[]; revision: number }> {
  // a filter of ours comes after the limit of theirs, so all are asked for
  const asked = query.filters ? 0 : limit;
  const { events, revision } = await api.listEvents({ volume, afterRevision, limit: asked }, call);
  const fromMs = query.sinceMs === null ? -Infinity : nowMs - query.sinceMs;
  const wanted = events.filter((event) => event.lastMs >= fromMs && query.wanted(event));
  return { events: wanted.slice(-limit), revision };
}

/** An event that counts up is shown again. A control plane that is away is said and waited for. */
async function follow(context: CommandContext, options: ListOptions): Promise<void> {
  const { io, clock, signal, print } = context;
  let after = 0;
  let notice = '';
  try {
    for (;;) {
      try {
        const { events, revision } = await list(context, options, after);
        after = Math.max(after, revision);
        notice = '';
        for (const event of events) {
          if (print.forPeople) io.stdout.write(`${eventLine(event)}\n`);
          else if (print.format === 'json' && !print.quiet) {
            io.stdout.write(`${JSON.stringify(event)}\n`);
          } else print.rows([event], eventColumns, ({ id }) => id);
        }
      } catch (error) {
        if (signal.aborted || !hasCode(error, 'UNAVAILABLE', 'TIMEOUT')) throw error;
        if (error.message !== notice) io.stderr.write(`not up to date: ${error.message}\n`);
        notice = error.message;
      }
      await pause(clock, lookEveryMs, signal);
    }
  } catch (error) {
    if (io.signal?.aborted === true) throw new ExitStatus(interruptedStatus);
    throw error;
  }
}

function eventLine({ lastMs, type, reason, object, node, count, message }: StorEvent): string {
  const times = count > 1 ? ` (${count} times)` : '';
  const text = `${formatTime(lastMs)} ${type} ${reason} ${object.kind}/${object.name} on ${node}${times}: ${message}`;
  // a message from elsewhere must not move the cursor
  return text.replaceAll(/\p{Cc}/gu, ' ');
}

function parseLimit(text: string | undefined): number {
  if (text === undefined) return defaultLimit;
  const limit = /^[0-9]+$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= maxLimit) return limit;
  throw new StorError(
    'INVALID_ARGUMENT',
    `--limit ${JSON.stringify(text)} is not valid: give a number from 1 to ${maxLimit}`,
  );
}
