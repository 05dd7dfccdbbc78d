import { Command, Option } from 'commander';
import { addGuardOptions } from './change-guards.ts';
import { addClusterCommands } from './commands/cluster.ts';
import { addDiskCommands } from './commands/disk.ts';
import { addDoctorCommand } from './commands/doctor.ts';
import { addEventsCommand } from './commands/events.ts';
import { addHelpCommand } from './commands/help.ts';
import { addNodeCommands } from './commands/node.ts';
import { addPlacementCommands } from './commands/placement.ts';
import { addPolicyCommands } from './commands/policy.ts';
import { addPoolCommands } from './commands/pool.ts';
import { addRebuildCommands } from './commands/rebuild.ts';
import { addScrubCommands } from './commands/scrub.ts';
import { addSnapshotCommands } from './commands/snapshot.ts';
import { addTenantCommands } from './commands/tenant.ts';
import { addTokenCommands } from './commands/token.ts';
import { addTransferCommands } from './commands/transfer.ts';
import { addTrashCommands } from './commands/trash.ts';
import { addBenchCommand } from './commands/volume-bench.ts';
import { addVolumeCommands } from './commands/volume.ts';
import { addSimulateCommand, addUpgradeCommands } from './commands/what-if.ts';
import type { RunAction, StorctlIo } from './command-context.ts';
import { expandCommandWords, type CommandWord } from './core/command-words.ts';
import { outputFormats } from './printer.ts';

/** Commands that destroy or break something are written in full: a prefix is easily a mistake. */
const neverAbbreviated = new Set([
  'rm',
  'fence',
  'recover',
  'rollback',
  'prune',
  'empty',
  'promote',
  'demote',
  'decommission',
  'forget',
]);

/** The whole command line as a commander tree. Errors are thrown, not printed. */
export function buildProgram(io: StorctlIo, run: RunAction): Command {
  const program = new Command('storctl');
  program
    .description('Looks after a Stor cluster: nodes, disks and replicated block volumes.')
    .version(io.version ?? 'unknown', '--version', 'print the version')
    .addOption(
      new Option('-o, --output <form>', `form of the output: ${outputFormats.join(', ')}`).default(
        'table',
      ),
    )
    .option('--no-headers', 'leave out the heading of tables')
    .option('-q, --quiet', 'print ids only, one per line, and no progress')
    .option('--timeout <time>', 'give up after this time, for example 30s or 5m (default: 60s)')
    .option('--endpoints <list>', 'API addresses, HOST:PORT[,HOST:PORT...] (or STOR_ENDPOINTS)')
    .helpCommand(false)
    .exitOverride()
    .showSuggestionAfterError(true)
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeOut: (text) => void io.stdout.write(text),
      writeErr: (text) => void io.stderr.write(text),
      // printed by runStorctl, with the exit code and the JSON form that go with it
      outputError: () => {},
      getOutHasColors: () => false,
      getErrHasColors: () => false,
      getOutHelpWidth: () => 100,
      getErrHelpWidth: () => 100,
    });
  addClusterCommands(program, run);
  addTokenCommands(program, run);
  addNodeCommands(program, run);
  addDiskCommands(program, run);
  addPoolCommands(program, run);
  const volume = addVolumeCommands(program, run);
  addTransferCommands(volume, run);
  addBenchCommand(volume, run);
  addSnapshotCommands(program, run);
  addTrashCommands(program, run);
  addPolicyCommands(program, run);
  addTenantCommands(program, run);
  addPlacementCommands(program, run);
  addRebuildCommands(program, run);
  addScrubCommands(program, run);
  addDoctorCommand(program, run);
  addEventsCommand(program, run);
  addSimulateCommand(program, run);
  addUpgradeCommands(program, run);
  addGuardOptions(program);
  addHelpCommand(program, io, (words) => {
    const expanded = expandCommandWords(words, commandWordsOf(program));
    return expanded.kind === 'ok' ? expanded.argv : words;
  });
  program.addHelpText('after', helpFooter);
  return program;
}

const helpFooter = `
Commands may be shortened while they stay unambiguous: "storctl vol ls".
Without --endpoints and STOR_ENDPOINTS the nearest .stor/cluster.yaml upwards is used.

Examples:
  storctl cluster status
  storctl volume create db --size 20GiB --replicas 3
  storctl volume ls -o wide
  storctl help exit-codes`;

/** The commander tree as the prefix matcher wants it. */
export function commandWordsOf(command: Command): CommandWord {
  return {
    name: command.name(),
    aliases: command.aliases(),
    abbreviable: !neverAbbreviated.has(command.name()),
    valueFlags: command.options
      .filter((option) => option.required)
      .flatMap((option) => [option.short, option.long])
      .filter((flag) => flag !== undefined),
    children: command.commands.map(commandWordsOf),
  };
}
