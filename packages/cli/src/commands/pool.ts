import type { Command } from 'commander';
import { StorError } from '@stor/protocol';
import type { RunAction } from '../command-context.ts';
import { poolColumns, poolSheet } from '../disk-views.ts';

export function addPoolCommands(program: Command, run: RunAction): void {
  const pool = program.command('pool').description('the disks of one tag, and how full they are');
  pool
    .command('ls')
    .alias('list')
    .description('list the pools: capacity, use, and what was promised to volumes')
    .addHelpText('after', '\nExamples:\n  storctl pool ls')
    .action(async (_options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const { pools } = await api.listPools({}, call);
        print.rows(pools, poolColumns, ({ tag }) => tag);
      }),
    );
  pool
    .command('inspect')
    .argument('<tag>', 'tag of the disks; any: those without one')
    .description('show a pool: reserves, limits, and what fails first')
    .addHelpText('after', '\nExamples:\n  storctl pool inspect ssd')
    .action(async (tag: string, _options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const { pools, settings } = await api.listPools({}, call);
        const found = pools.find((each) => each.tag === tag);
        if (found === undefined) {
          const known = pools.map((each) => each.tag).join(', ') || '(none)';
          throw new StorError(
            'NOT_FOUND',
            `there is no pool ${JSON.stringify(tag)}: disks have the tags ${known}`,
          );
        }
        print.answer({ ...found, settings }, poolSheet(found, settings));
      }),
    );
  addSet(pool, run);
}

interface SetOptions {
  overprovision?: number;
  repairReserve?: number;
}

function addSet(pool: Command, run: RunAction): void {
  pool
    .command('set')
    .option(
      '--overprovision <percent>',
      'what may be promised on each disk, of its size: 100% to 100000% (at first 1000%)',
      parsePercent,
    )
    .option(
      '--repair-reserve <percent>',
      'share of each disk that new volumes leave free for rebuilds: 0% to 50% (at first 10%)',
      parsePercent,
    )
    .description('change the limits that hold for all disks of the cluster')
    .addHelpText(
      'after',
      `
Only new volumes and more replicas are refused by them: what exists stays, and lost replicas are
rebuilt as long as there is room.

Examples:
  storctl pool set --overprovision 300%
  storctl pool set --repair-reserve 20%`,
    )
    .action(async (options: SetOptions, command: Command) => {
      const { overprovision, repairReserve } = options;
      if (overprovision === undefined && repairReserve === undefined) {
        throw new StorError(
          'INVALID_ARGUMENT',
          'nothing is to be changed: give --overprovision or --repair-reserve',
        );
      }
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const settings = await api.setPool(
          {
            ...(overprovision === undefined ? {} : { overprovisionPercent: overprovision }),
            ...(repairReserve === undefined ? {} : { repairReservePercent: repairReserve }),
          },
          call,
        );
        const { overprovisionPercent, repairReservePercent } = settings;
        print.facts(
          { ...settings },
          `up to ${overprovisionPercent}% of each disk may be promised; new volumes leave ${repairReservePercent}% of it free for rebuilds\n`,
        );
      });
    });
}

/** `300%` or `300`. */
function parsePercent(text: string): number {
  const match = /^([0-9]{1,6})%?$/.exec(text.trim());
  if (match) return Number(match[1]);
  throw new StorError(
    'INVALID_ARGUMENT',
    `${JSON.stringify(text)} is no share: write whole percents, for example 300%`,
  );
}
