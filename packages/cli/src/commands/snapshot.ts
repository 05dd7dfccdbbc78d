import type { Command } from 'commander';
import { StorError, checkSnapshotName, parseSnapshotName } from '@stor/protocol';
import type { Snapshot } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { confirmRemoval } from '../confirm.ts';
import { deleteSnapshots } from '../delete-snapshots.ts';
import { parseNewLabels } from '../core/label-arguments.ts';
import { formatPause, snapshotColumns, snapshotSheet } from '../snapshot-views.ts';
import { watchFlag, watchHelp, watchObjects, watchText } from '../watch-objects.ts';
import { snapshotsView } from '../watch-views.ts';
import { addDiffCommand } from './snapshot-diff.ts';
import { addPruneCommand } from './snapshot-prune.ts';

export function addSnapshotCommands(program: Command, run: RunAction): void {
  const snapshot = program
    .command('snapshot')
    .alias('snap')
    .description('frozen points of volumes, named VOLUME@SNAPSHOT');
  addCreate(snapshot, run);
  addViews(snapshot, run);
  addDiffCommand(snapshot, run);
  addPruneCommand(snapshot, run);
  addRemove(snapshot, run);
  addAdopt(snapshot, run);
}

interface CreateOptions {
  group?: string[];
  label?: string[];
}

function addCreate(snapshot: Command, run: RunAction): void {
  snapshot
    .command('create')
    .argument('<snapshot>', 'VOLUME@SNAPSHOT; with --group the name alone')
    .option(
      '--group <label>',
      'all volumes with this label, KEY=VALUE; may be given again',
      collect,
    )
    .option('--label <key=value>', 'label of the snapshot; may be given again', collect)
    .description('take a snapshot of a volume, or of a group at one instant')
    .addHelpText(
      'after',
      `
A snapshot is crash-consistent: what was acknowledged before it is in it. I/O of the volumes pauses for at
most 100 ms; when it would be longer nothing is taken (exit 124). It returns when the snapshot is durable
on every replica that is in sync.

Examples:
  storctl snapshot create db@monday
  storctl snapshot create friday --group app=shop`,
    )
    .action(async (name: string, options: CreateOptions, command: Command) => {
      const wanted = readTarget(name, options.group ?? []);
      const labels = parseNewLabels(options.label ?? []);
      await run(command.optsWithGlobals(), async ({ api, print, call, nowMs }) => {
        const { snapshots } = await api.createSnapshot({ ...wanted, labels }, call);
        const [first, ...others] = snapshots;
        if (first !== undefined && others.length === 0) print.changed(first, takenText(snapshots));
        else if (print.forPeople) print.facts({}, `${takenText(snapshots)}\n`);
        else print.list(snapshots, snapshotColumns(nowMs));
      });
    });
}

function readTarget(
  name: string,
  group: readonly string[],
): { volume: string; selector: Record<string, string>; name: string } {
  if (group.length === 0) {
    const parsed = parseSnapshotName(name);
    return { volume: parsed.volume, selector: {}, name: parsed.snapshot };
  }
  const alone = name.replace(/^@/, '');
  if (alone.includes('@')) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `${JSON.stringify(name)} names a volume, and --group a group: give one of them, as in "storctl snapshot create friday --group app=shop"`,
    );
  }
  checkSnapshotName(alone);
  // `label=app=shop` says the same as `app=shop`
  const labels = group.map((word) => word.replace(/^label=(?=[^=]+=)/, ''));
  return { volume: '', selector: parseNewLabels(labels), name: alone };
}

function takenText(snapshots: readonly Snapshot[]): string {
  const names = snapshots.map(({ metadata }) => metadata.name).join(', ');
  const pausedMs = Math.max(0, ...snapshots.map(({ status }) => status.pausedMs));
  const what =
    snapshots.length === 1
      ? `snapshot ${names} taken`
      : `${snapshots.length} snapshots taken at one instant: ${names}`;
  return `${what}; I/O was paused for ${formatPause(pausedMs)}`;
}

function addViews(snapshot: Command, run: RunAction): void {
  snapshot
    .command('ls')
    .alias('list')
    .argument('[volume]', 'name or id (default: all volumes)')
    .option('--orphans', 'only those that replicas have and the cluster does not know')
    .option(watchFlag, watchText)
    .description('list snapshots, oldest first')
    .addHelpText(
      'after',
      `
OWN is what only this snapshot holds on each replica: what removing it would free. Bytes that several
snapshots share are freed with the last of them ("storctl volume inspect" shows the sum).
Orphans are what a control plane does not know that was put back to an older state: take them over with
"storctl snapshot adopt", or remove them.
${watchHelp}
Examples:
  storctl snapshot ls
  storctl snapshot ls db -o wide`,
    )
    .action(async (volume: string | undefined, options: ListOptions, command: Command) => {
      if (options.watch === true && options.orphans === true) {
        throw new StorError(
          'INVALID_ARGUMENT',
          '--watch shows what the cluster knows, and --orphans what it does not: give one of the two',
        );
      }
      await run(command.optsWithGlobals(), (context) => list(context, volume, options), {
        longRunning: options.watch === true,
      });
    });
  snapshot
    .command('inspect')
    .argument('<snapshot>', 'VOLUME@SNAPSHOT, or an id')
    .description('show everything about a snapshot')
    .addHelpText('after', '\nExamples:\n  storctl snapshot inspect db@monday')
    .action(async (name: string, _options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const found = await api.getSnapshot({ name }, call);
        print.one(found, snapshotSheet(found));
      }),
    );
}

interface ListOptions {
  orphans?: true;
  watch?: true;
}

async function list(
  context: CommandContext,
  volume: string | undefined,
  { orphans, watch }: ListOptions,
): Promise<void> {
  const { api, print, call, nowMs } = context;
  if (watch !== true) {
    const { snapshots } = await api.listSnapshots(
      { volume: volume ?? '', orphans: orphans === true },
      call,
    );
    print.list(snapshots, snapshotColumns(nowMs));
    return;
  }
  const found = volume === undefined ? undefined : await api.getVolume({ name: volume }, call);
  await watchObjects(context, snapshotsView(context, found?.metadata.id));
}

function addAdopt(snapshot: Command, run: RunAction): void {
  snapshot
    .command('adopt')
    .argument('<orphan>', 'VOLUME@ID, as "storctl snapshot ls --orphans" shows it')
    .argument('<name>', 'its name from now on')
    .description('take over a snapshot that replicas have and the cluster does not know')
    .addHelpText(
      'after',
      `
Every in-sync replica must have it.

Examples:
  storctl snapshot adopt db@s-0123456789abcdef monday`,
    )
    .action(async (name: string, newName: string, _options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const found = await api.adoptSnapshot({ name, newName: newName.replace(/^.*@/, '') }, call);
        print.changed(found, `${name} is snapshot ${found.metadata.name} now`);
      }),
    );
}

function addRemove(snapshot: Command, run: RunAction): void {
  snapshot
    .command('rm')
    .alias('delete')
    .argument('<snapshot...>', 'VOLUME@SNAPSHOT, or ids')
    .option('-y, --yes', 'do not ask')
    .description('delete snapshots; their space is given back in the background')
    .addHelpText(
      'after',
      `
What was cloned from a snapshot lives on, and so do older and newer snapshots.

Examples:
  storctl snapshot rm db@monday
  storctl snapshot rm db@monday db@tuesday -y`,
    )
    .action(async (names: string[], options: { yes?: true }, command: Command) =>
      run(
        command.optsWithGlobals(),
        async (context) => {
          const found = await Promise.all(
            names.map((name) => context.api.getSnapshot({ name }, context.call)),
          );
          const text = found.map(({ metadata }) => metadata.name).join(', ');
          await confirmRemoval(context.io, options.yes === true, {
            what: found.length === 1 ? `snapshot ${text}` : `${found.length} snapshots (${text})`,
            lost: `What only ${found.length === 1 ? 'it holds' : 'they hold'} is lost.`,
          });
          await deleteSnapshots(context, found);
        },
        { longRunning: options.yes !== true },
      ),
    );
}

function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}
