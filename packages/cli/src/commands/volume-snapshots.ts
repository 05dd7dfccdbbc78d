import type { Command } from 'commander';
import {
  StorError,
  checkVolumeName,
  formatByteSize,
  parseByteSize,
  parseSnapshotName,
  splitSnapshotName,
} from '@stor/protocol';
import type { Volume } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { confirmUnsafe } from '../confirm.ts';
import { parseNewLabels } from '../core/label-arguments.ts';

export function addSnapshotVerbs(volume: Command, run: RunAction): void {
  addRollback(volume, run);
  addClone(volume, run);
  addUndelete(volume, run);
}

interface RollbackOptions {
  force?: true;
  safetySnapshot: boolean;
  yes?: true;
}

function addRollback(volume: Command, run: RunAction): void {
  volume
    .command('rollback')
    .argument('<snapshot>', 'VOLUME@SNAPSHOT')
    .option('--force', 'also while clients are connected')
    .option('--no-safety-snapshot', 'do not keep what the volume is now')
    .option('-y, --yes', 'do not ask')
    .description('make a volume what it was when a snapshot was taken')
    .addHelpText(
      'after',
      `
What the volume is now is kept first, as VOLUME@before-rollback-TIME. Its other snapshots stay, newer ones
too. Clients that are connected would see other bytes under a mounted file system, so it is refused while
there are some: unmount and disconnect first.

Examples:
  storctl volume rollback db@monday
  storctl volume rollback db@monday --no-safety-snapshot -y`,
    )
    .action(async (target: string, options: RollbackOptions, command: Command) => {
      const { volume: name, snapshot } = parseSnapshotName(target);
      const { force = false, safetySnapshot, yes = false } = options;
      await run(
        command.optsWithGlobals(),
        async ({ api, io, print, call }) => {
          // one that does not exist is said before the question
          await api.getSnapshot({ name: target }, call);
          const risks = [
            safetySnapshot
              ? 'what was written since is kept as another snapshot'
              : 'what was written since is lost',
            ...(force ? ['clients that are connected see other bytes at once'] : []),
          ];
          await confirmUnsafe(io, yes, {
            action: `Roll volume ${name} back to ${target}`,
            risks,
            left: `volume ${name} was not rolled back`,
          });
          const request = { name, snapshot, force, safetySnapshot };
          const done = await api.rollbackVolume(request, call);
          const kept = done.safetySnapshot;
          const what = kept === '' ? '' : `; what it was before is ${kept}`;
          print.changed(done.volume, `volume ${name} rolled back to ${target}${what}`);
        },
        { longRunning: !yes },
      );
    });
}

function addClone(volume: Command, run: RunAction): void {
  volume
    .command('clone')
    .argument('<source>', 'VOLUME@SNAPSHOT, or VOLUME for what it is now')
    .argument('<name>', 'of the new volume')
    .option('--size <size>', 'a larger size than that of the source, for example 40GiB')
    .option('--label <key=value>', 'label of the new volume; may be given again', collect)
    .description('create a volume that begins as another one, at once and without a copy')
    .addHelpText(
      'after',
      `
Both share what they have in common on each disk, so a clone takes space only for what is written to
one of them. The source, and the snapshot, may be deleted first.

Examples:
  storctl volume clone db@monday test
  storctl volume clone db staging --size 40GiB`,
    )
    .action(
      async (
        source: string,
        name: string,
        options: { size?: string; label?: string[] },
        command: Command,
      ) => {
        checkVolumeName(name);
        const split = splitSnapshotName(source);
        const from = split ? parseSnapshotName(source) : { volume: source, snapshot: '' };
        const sizeBytes = options.size === undefined ? 0 : parseByteSize(options.size);
        if (options.size !== undefined && sizeBytes <= 0) {
          throw new StorError('INVALID_ARGUMENT', `size ${options.size} is not valid`);
        }
        const labels = parseNewLabels(options.label ?? []);
        await run(command.optsWithGlobals(), async (context) => {
          const { api, print, call } = context;
          const { volume: sourceName, snapshot } = from;
          const request = { source: sourceName, snapshot, name, sizeBytes, labels };
          const clone = await api.cloneVolume(request, call);
          const size = formatByteSize(clone.spec.sizeBytes);
          print.changed(
            clone,
            `volume ${clone.metadata.name} created as a clone of ${source}: ${size}${await brokenText(context, clone)}`,
          );
        });
      },
    );
}

/** A clone lies on the disks of its source, also where its rules do not want it. */
async function brokenText({ api, print, call }: CommandContext, clone: Volume): Promise<string> {
  if (!print.forPeople) return '';
  try {
    const { id } = clone.metadata;
    const { violations } = await api.listPlacementViolations({ volume: id }, call);
    return violations.map(({ message, next }) => `\nnote: ${message}; ${next}`).join('');
  } catch {
    // the clone is there, and "storctl placement violations" says it too
    return '';
  }
}

function addUndelete(volume: Command, run: RunAction): void {
  volume
    .command('undelete')
    .argument('<volume>', 'name that it had, or id (see "storctl trash ls")')
    .option('--as <name>', 'bring it back under another name')
    .description('bring a deleted volume back from the trash, with its snapshots')
    .addHelpText(
      'after',
      '\nExamples:\n  storctl volume undelete db\n  storctl volume undelete v-0123456789abcdef --as db-old',
    )
    .action(async (name: string, options: { as?: string }, command: Command) => {
      if (options.as !== undefined) checkVolumeName(options.as);
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const back = await api.undeleteVolume({ name, newName: options.as ?? '' }, call);
        print.changed(back, `volume ${back.metadata.name} is back from the trash`);
      });
    });
}

function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}
