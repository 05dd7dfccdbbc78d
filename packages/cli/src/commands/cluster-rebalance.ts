import type { Command } from 'commander';
import { parseByteSize, StorError } from '@stor/protocol';
import type { Rebalance, RebalanceSettings } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { rebalanceSheet, rebalanceWord } from '../rebalance-views.ts';

interface StartOptions {
  dryRun?: true;
  plan?: true;
  band?: string;
  budget?: string;
  maxMoves?: string;
  stopAfter?: string;
}

export function addRebalanceCommands(cluster: Command, run: RunAction): void {
  const rebalance = cluster
    .command('rebalance')
    .description('move replicas until disks are about equally full');
  addStart(rebalance, run);
  rebalance
    .command('status')
    .description('show what has moved, what moves, what comes next, and how unequal disks are')
    .addHelpText(
      'after',
      `
STATE is waiting while a copy is missing anywhere, a node is down or replicas move for another reason:
repairs go first.

Examples:
  storctl cluster rebalance status
  storctl cluster rebalance status -o json`,
    )
    .action(async (_options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call, nowMs }) => {
        const known = await api.getRebalance({}, call);
        print.answer({ ...known }, rebalanceSheet(known, nowMs));
      }),
    );
  addOrder(
    rebalance,
    'pause',
    'let no more replicas begin to move; those that move end their move',
    run,
  );
  addOrder(rebalance, 'resume', 'go on after a pause', run);
  addOrder(rebalance, 'stop', 'end it; replicas that move end their move', run);
}

function addStart(rebalance: Command, run: RunAction): void {
  rebalance
    .command('start')
    .option('--dry-run', 'change nothing, only show what would move')
    .option('--plan', 'the same as --dry-run')
    .option('--band <percent>', 'end when disks of a tag differ by at most so much (default: 5%)')
    .option(
      '--budget <size>',
      'begin moves of at most so much in a second on average, for example 50MiB/s; none',
    )
    .option('--max-moves <count>', 'replicas that move at one time, 1 to 4 (default: 2)')
    .option('--stop-after <count>', 'end after so many moves; 0: when nothing is left (default: 0)')
    .description('begin, go on after a pause, or change the settings of one that runs')
    .addHelpText(
      'after',
      `
A replica is filled at its new place before the old one leaves, one of a volume at a time, and only while
all copies of all volumes are in sync. No rule of placement is broken, and none moves twice.

Examples:
  storctl cluster rebalance start --dry-run
  storctl cluster rebalance start --budget 50MiB/s
  storctl cluster rebalance start --band 10% --max-moves 1 --stop-after 20`,
    )
    .action(async (options: StartOptions, command: Command) => {
      const dryRun = options.dryRun ?? options.plan ?? false;
      const request = { ...settingsOf(options), dryRun };
      await run(command.optsWithGlobals(), async (context) => {
        const { api, print, call, nowMs } = context;
        const known = await api.startRebalance(request, call);
        if (dryRun) print.answer({ ...known }, rebalanceSheet(known, nowMs, true));
        else show(context, known);
      });
    });
}

type Verb = 'pause' | 'resume' | 'stop';

function addOrder(rebalance: Command, order: Verb, description: string, run: RunAction): void {
  rebalance
    .command(order)
    .description(description)
    .addHelpText('after', `\nExamples:\n  storctl cluster rebalance ${order}`)
    .action(async (_options: object, command: Command) =>
      run(command.optsWithGlobals(), async (context) => {
        show(context, await context.api.orderRebalance({ order }, context.call));
      }),
    );
}

function show({ print }: CommandContext, known: Rebalance): void {
  print.facts({ ...known }, `${rebalanceWord(known)}\n`);
}

/** What was given; the rest stays as it is, or has its default. */
function settingsOf({
  band,
  budget,
  maxMoves,
  stopAfter,
}: StartOptions): Partial<RebalanceSettings> {
  return {
    ...(band === undefined ? {} : { bandPercent: parsePercent(band) }),
    ...(budget === undefined ? {} : { bytesPerSecond: parseBudget(budget) }),
    ...(maxMoves === undefined ? {} : { maxMoves: parseCount('--max-moves', maxMoves) }),
    ...(stopAfter === undefined ? {} : { stopAfter: parseCount('--stop-after', stopAfter) }),
  };
}

function parsePercent(text: string): number {
  if (/^[0-9]{1,2}(\.[0-9]+)?%?$/.test(text)) return Number(text.replace('%', ''));
  throw invalid(`--band ${JSON.stringify(text)} is not valid: give percents from 0.1% to 50%`);
}

function parseBudget(text: string): number {
  return text === 'none' ? 0 : parseByteSize(text.replace(/\/s$/, ''));
}

function parseCount(flag: string, text: string): number {
  if (/^[0-9]{1,7}$/.test(text)) return Number(text);
  throw invalid(`${flag} ${JSON.stringify(text)} is not valid: give a whole number`);
}

function invalid(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}
