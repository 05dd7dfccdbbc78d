import type { Command } from 'commander';
import type { RunAction } from '../command-context.ts';
import { confirmRemoval } from '../confirm.ts';
import { trashColumns } from '../snapshot-views.ts';

export function addTrashCommands(program: Command, run: RunAction): void {
  const trash = program
    .command('trash')
    .description('deleted volumes that can still be brought back');
  trash
    .command('ls')
    .alias('list')
    .description('list the deleted volumes, newest first')
    .addHelpText(
      'after',
      `
They keep their replicas and snapshots, and so their space, until their time is over.

Examples:
  storctl trash ls
  storctl volume undelete db`,
    )
    .action(async (_options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call, nowMs }) => {
        const { volumes } = await api.listTrash({}, call);
        print.list(volumes, trashColumns(nowMs));
      }),
    );
  trash
    .command('empty')
    .argument('[volume]', 'name or id of one of them (default: all)')
    .option('-y, --yes', 'do not ask')
    .description('delete what is in the trash for good, with its data')
    .addHelpText('after', '\nExamples:\n  storctl trash empty\n  storctl trash empty db -y')
    .action(async (name: string | undefined, options: { yes?: true }, command: Command) =>
      run(
        command.optsWithGlobals(),
        async ({ api, io, print, call, nowMs }) => {
          const { volumes } = await api.listTrash({}, call);
          const count = volumes.length === 1 ? '1 volume' : `all ${volumes.length} volumes`;
          if (name === undefined && volumes.length === 0) {
            print.facts({ deleted: 0 }, 'the trash is empty\n');
            return;
          }
          await confirmRemoval(io, options.yes === true, {
            what: name === undefined ? `${count} in the trash` : `volume ${name} in the trash`,
            lost: 'Data and snapshots are lost, and cannot be brought back.',
          });
          const emptied = await api.emptyTrash({ name: name ?? '' }, call);
          if (!print.forPeople) {
            print.list(emptied.volumes, trashColumns(nowMs));
            return;
          }
          for (const { metadata } of emptied.volumes)
            print.facts({}, `volume ${metadata.name} (${metadata.id}) deleted for good\n`);
        },
        { longRunning: options.yes !== true },
      ),
    );
}
