import type { Command } from 'commander';
import { hasCode, StorError } from '@stor/protocol';
import type { StorEvent } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import type { Column } from '../core/table.ts';
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
}

export function addEventsCommand(program: Command, run: RunAction): void {
  program
    .command('events')
    .description('what happened in the cluster: bad blocks, lost replicas, full disks, scrubs')
    .option('-f, --follow', 'go on showing what happens, until Ctrl-C')
    .option('--volume <volume>', 'only what is about this volume (name or id)')
    .option('--warnings', 'only what somebody should look at')
    .option('--limit <n>', `the last so many (default: ${defaultLimit}, at most ${maxLimit})`)
    .addHelpText(
      'after',
      `
The newest comes last. The same thing within ten minutes is one event that counts up: COUNT, and LAST
is when it happened last. Events are kept for 7 days, 5,000 of them at most.

Examples:
  storctl events
  storctl events -f --volume db
  storctl events --warnings -o json`,
    )
    .action(async (options: EventOptions, command: Command) => {
      const limit = parseLimit(options.limit);
      await run(
        command.optsWithGlobals(),
        (context) =>
          options.follow === true
            ? follow(context, options, limit)
            : list(context, options, limit).then(({ events }) => {
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

async function list(
  { api, call }: CommandContext,
  options: EventOptions,
  limit: number,
  afterRevision = 0,
): Promise<{ events: StorEvent[]; revision: number }> {
  // a filter of ours comes after the limit of theirs, so all are asked for
  const asked = options.warnings === true ? 0 : limit;
  const volume = options.volume ?? '';
  const { events, revision } = await api.listEvents({ volume, afterRevision, limit: asked }, call);
  const wanted = options.warnings === true ? events.filter(isWarning) : events;
  return { events: wanted.slice(-limit), revision };
}

function isWarning({ type }: StorEvent): boolean {
  return type === 'warning';
}

/** An event that counts up is shown again. A control plane that is away is said and waited for. */
async function follow(
  context: CommandContext,
  options: EventOptions,
  limit: number,
): Promise<void> {
  const { io, clock, signal, print } = context;
  let after = 0;
  let notice = '';
  try {
    for (;;) {
      try {
        const { events, revision } = await list(context, options, limit, after);
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
