import type { Command } from 'commander';
import { formatByteSize, maxScrubEveryMs, parseByteSize, StorError } from '@stor/protocol';
import type { Scrub, ScrubResult, ScrubSettings } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { formatAge, formatWait, parsePolicyTimeMs } from '../core/duration.ts';
import { formatEta, formatRate, progressBar } from '../core/rebuild-text.ts';
import { renderSheet, renderTable, type Column } from '../core/table.ts';
import { formatTime } from '../resource-views.ts';

export function addScrubCommands(program: Command, run: RunAction): void {
  const scrub = program
    .command('scrub')
    .description('read and compare replicas in the background, and repair what has rotted');
  addStatus(scrub, run);
  addOrder(scrub, 'start', 'begin to read all replicas of a volume now, or go on', run);
  addOrder(scrub, 'pause', 'let a scrub stand still where it is', run);
  addOrder(scrub, 'resume', 'let a scrub go on that was paused', run);
  addOrder(scrub, 'stop', 'end a scrub before its end', run);
  addSet(scrub, run);
}

function addStatus(scrub: Command, run: RunAction): void {
  scrub
    .command('status')
    .argument('[volume]', 'name or id (default: all volumes)')
    .description('show how far scrubs are, what they found, and when the next ones are due')
    .addHelpText(
      'after',
      `
FOUND are blocks that did not match their checksums, KEPT those of them that no replica has (reads of
them fail until they are written), DIFFER blocks that match and differ between replicas.

Examples:
  storctl scrub status
  storctl scrub status db
  storctl scrub status -o json`,
    )
    .action(async (name: string | undefined, _options: object, command: Command) =>
      run(command.optsWithGlobals(), (context) => status(context, name)),
    );
}

type Verb = 'start' | 'pause' | 'resume' | 'stop';
const doneWord: Record<Verb, string> = {
  start: 'begun',
  pause: 'paused',
  resume: 'resumed',
  stop: 'ended',
};

function addOrder(scrub: Command, verb: Verb, description: string, run: RunAction): void {
  scrub
    .command(verb)
    .argument('[volume]', 'name or id')
    .option('--all', 'all volumes that exist now')
    .description(description)
    .addHelpText('after', `\nExamples:\n  storctl scrub ${verb} db\n  storctl scrub ${verb} --all`)
    .action(async (name: string | undefined, options: { all?: true }, command: Command) => {
      if ((name === undefined) === (options.all === undefined)) {
        throw new StorError(
          'INVALID_ARGUMENT',
          `name one volume, or give --all: storctl scrub ${verb} NAME, or storctl scrub ${verb} --all`,
        );
      }
      await run(command.optsWithGlobals(), (context) => order(context, verb, name ?? ''));
    });
}

async function order(context: CommandContext, verb: Verb, volume: string): Promise<void> {
  const { api, print, call } = context;
  const { scrubs } = await (verb === 'start'
    ? api.startScrub({ volume }, call)
    : verb === 'stop'
      ? api.stopScrub({ volume }, call)
      : api.pauseScrub({ volume, paused: verb === 'pause' }, call));
  if (!print.forPeople) {
    print.rows(scrubs, scrubColumns(context.nowMs), ({ volumeId }) => volumeId);
    return;
  }
  const [only] = scrubs;
  const what =
    volume !== '' && only ? `scrub of volume ${only.volume}` : `scrubs of ${scrubs.length} volumes`;
  const wanted: Record<Verb, Scrub['state'][]> = {
    start: ['running', 'waiting'],
    pause: ['paused', 'idle'],
    resume: ['running', 'waiting', 'idle'],
    stop: ['idle'],
  };
  const isNone =
    scrubs.every(({ state }) => state === 'idle') && ['pause', 'resume'].includes(verb);
  if (isNone) print.facts({}, 'no scrub is under way\n');
  else if (scrubs.every(({ state }) => wanted[verb].includes(state))) {
    print.facts({}, `${what} ${doneWord[verb]}\n`);
  } else {
    print.facts({}, `${what} changed meanwhile: see "storctl scrub status"\n`);
  }
}

function addSet(scrub: Command, run: RunAction): void {
  scrub
    .command('set')
    .option('--every <time>', 'scrub each volume once in this time, for example 7d; off: never')
    .option('--rate <size>', 'read at most so much in a second, for example 64MiB, per node')
    .description('change how often and how fast volumes are scrubbed')
    .addHelpText(
      'after',
      `
The rate is a limit for all scrubs of the primaries of one node; they go slower when clients suffer.

Examples:
  storctl scrub set --every 7d --rate 64MiB
  storctl scrub set --every off`,
    )
    .action(async (options: { every?: string; rate?: string }, command: Command) => {
      if (options.every === undefined && options.rate === undefined) {
        throw new StorError('INVALID_ARGUMENT', 'give --every, --rate or both');
      }
      const every = options.every === 'off' ? '0' : options.every;
      const request = {
        ...(every === undefined
          ? {}
          : { everyMs: parsePolicyTimeMs('--every', every, maxScrubEveryMs) }),
        ...(options.rate === undefined
          ? {}
          : { rateBytesPerSecond: parseByteSize(options.rate.replace(/\/s$/, '')) }),
      };
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const settings = await api.setScrub(request, call);
        print.facts({ ...settings }, `${settingsText(settings)}\n`);
      });
    });
}

export function settingsText({ everyMs, rateBytesPerSecond }: ScrubSettings): string {
  const often = everyMs === 0 ? 'only when ordered' : `every ${formatWait(everyMs)}`;
  return `volumes are scrubbed ${often}, at most ${formatByteSize(rateBytesPerSecond)} per second and node`;
}

async function status(context: CommandContext, name: string | undefined): Promise<void> {
  const { api, print, call, nowMs } = context;
  const { scrubs, settings } = await api.listScrubs({ volume: name ?? '' }, call);
  if (print.format === 'json' || print.format === 'yaml') {
    print.answer({ settings, scrubs }, '');
    return;
  }
  const [only] = scrubs;
  if (name !== undefined && only && print.forPeople) {
    print.answer({}, sheet(only, settings, nowMs));
    return;
  }
  print.rows(scrubs, scrubColumns(nowMs), ({ volumeId }) => volumeId);
}

function scrubColumns(nowMs: number): Column<Scrub>[] {
  const last = ({ history }: Scrub): ScrubResult | undefined => history.at(-1);
  const counts = (scrub: Scrub) => (scrub.state === 'idle' ? last(scrub)?.counts : scrub.counts);
  const count = (value: number | undefined): string => (value === undefined ? '' : String(value));
  return [
    { title: 'VOLUME', cell: ({ volume }) => volume },
    { title: 'STATE', cell: ({ state }) => state },
    { title: 'PROGRESS', cell: (scrub) => progressBar(fractionOf(scrub)) },
    { title: 'RATE', cell: ({ bytesPerSecond }) => formatRate(bytesPerSecond), right: true },
    { title: 'ETA', cell: ({ etaMs }) => formatEta(etaMs), right: true },
    { title: 'FOUND', cell: (scrub) => count(counts(scrub)?.found), right: true },
    { title: 'REPAIRED', cell: (scrub) => count(counts(scrub)?.repaired), right: true },
    { title: 'KEPT', cell: (scrub) => count(counts(scrub)?.kept), right: true },
    { title: 'DIFFER', cell: (scrub) => count(counts(scrub)?.diverged), right: true },
    {
      title: 'LAST',
      cell: (scrub) => {
        const result = last(scrub);
        return result ? `${formatAge(nowMs - result.endedAtMs)} ago` : '';
      },
    },
    { title: 'NEXT', cell: ({ nextDueMs }) => dueText(nextDueMs, nowMs) },
    { title: 'MESSAGE', cell: ({ message }) => message },
  ];
}

/** From 0 to 1; null when none is under way, or nobody knows yet. */
function fractionOf({ state, counts, bytesRemaining }: Scrub): number | null {
  const totalBytes = counts.bytes + bytesRemaining;
  return state === 'idle' || totalBytes === 0 ? null : counts.bytes / totalBytes;
}

function dueText(dueMs: number | null, nowMs: number): string {
  if (dueMs === null) return '';
  return dueMs <= nowMs ? 'due' : `in ${formatAge(dueMs - nowMs)}`;
}

function sheet(scrub: Scrub, settings: ScrubSettings, nowMs: number): string {
  const { counts, state, bytesRemaining } = scrub;
  const isRun = state !== 'idle';
  const facts = renderSheet([
    ['Volume', scrub.volume],
    ['State', scrub.message === '' ? state : `${state}: ${scrub.message}`],
    ['Progress', isRun ? progressBar(fractionOf(scrub)) : ''],
    [
      'Read',
      isRun ? `${formatByteSize(counts.bytes)}, ${formatByteSize(bytesRemaining)} left` : '',
    ],
    ['Rate', formatRate(scrub.bytesPerSecond)],
    ['Ready in', formatEta(scrub.etaMs)],
    ['Findings', isRun ? findings(counts) : ''],
    ['Begun', scrub.startedAtMs === null ? '' : formatTime(scrub.startedAtMs)],
    ['Next', dueText(scrub.nextDueMs, nowMs)],
    ['Settings', settingsText(settings)],
  ]);
  if (scrub.history.length === 0) return facts;
  const rows = scrub.history.toReversed();
  return `${facts}\n${renderTable(rows, historyColumns, { wide: false, headers: true })}`;
}

function findings({ found, repaired, kept, diverged }: Scrub['counts']): string {
  return `${found} bad blocks found, ${repaired} blocks repaired, ${kept} kept as errors, ${diverged} differ`;
}

const historyColumns: Column<ScrubResult>[] = [
  { title: 'BEGUN', cell: ({ startedAtMs }) => formatTime(startedAtMs) },
  { title: 'TOOK', cell: ({ startedAtMs, endedAtMs }) => formatAge(endedAtMs - startedAtMs) },
  { title: 'BY', cell: ({ reason }) => reason },
  { title: 'END', cell: ({ complete }) => (complete ? 'complete' : 'called off') },
  { title: 'READ', cell: ({ counts }) => formatByteSize(counts.bytes), right: true },
  { title: 'FOUND', cell: ({ counts }) => String(counts.found), right: true },
  { title: 'REPAIRED', cell: ({ counts }) => String(counts.repaired), right: true },
  { title: 'KEPT', cell: ({ counts }) => String(counts.kept), right: true },
  { title: 'DIFFER', cell: ({ counts }) => String(counts.diverged), right: true },
];
