import type { Command } from 'commander';
import { StorError } from '@stor/protocol';
import type { Volume } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { volumeColumns } from '../resource-views.ts';
import { rebuildColumns, rebuildId, sortRebuilds } from '../rebuild-views.ts';
import { watchRebuilds } from '../watch-rebuilds.ts';

export function addRebuildCommands(program: Command, run: RunAction): void {
  const rebuild = program
    .command('rebuild')
    .description('replicas that are made equal: those that were away, and new ones');
  rebuild
    .command('ls')
    .alias('list')
    .argument('[volume]', 'name or id (default: all volumes)')
    .option('-w, --watch', 'go on showing, until Ctrl-C')
    .description('list the replicas that are being made equal, or wait for it')
    .addHelpText(
      'after',
      `
With --watch the list is drawn again each second; where stdout is no terminal, a line (with -o json or
yaml a document) follows when something has changed. It goes on when nothing is left to do, and ends
with Ctrl-C (exit 130) or --timeout (exit 124).

Examples:
  storctl rebuild ls
  storctl rebuild ls db --watch`,
    )
    .action(async (name: string | undefined, options: { watch?: true }, command: Command) =>
      run(command.optsWithGlobals(), (context) => list(context, name ?? '', options), {
        longRunning: options.watch === true,
      }),
    );
  for (const verb of ['pause', 'resume'] as const) addPause(rebuild, verb, run);
}

async function list(
  context: CommandContext,
  name: string,
  options: { watch?: true },
): Promise<void> {
  if (options.watch === true) {
    await watchRebuilds(context, name);
    return;
  }
  const { rebuilds } = await context.api.listRebuilds({ name }, context.call);
  context.print.rows(sortRebuilds(rebuilds), rebuildColumns, rebuildId);
}

function addPause(rebuild: Command, verb: 'pause' | 'resume', run: RunAction): void {
  const description =
    verb === 'pause'
      ? 'let no replica of a volume be filled until "rebuild resume"'
      : 'let the replicas of a volume be filled again';
  const note =
    verb === 'pause'
      ? '\nA paused volume stays degraded: it does not get back what it lacks.\n'
      : '';
  rebuild
    .command(verb)
    .argument('[volume]', 'name or id')
    .option('--all', 'all volumes that exist now')
    .description(description)
    .addHelpText(
      'after',
      `${note}\nExamples:\n  storctl rebuild ${verb} db\n  storctl rebuild ${verb} --all`,
    )
    .action(async (name: string | undefined, options: { all?: true }, command: Command) => {
      if ((name === undefined) === (options.all === undefined)) {
        throw new StorError(
          'INVALID_ARGUMENT',
          `name one volume, or give --all: storctl rebuild ${verb} NAME, or storctl rebuild ${verb} --all`,
        );
      }
      await run(command.optsWithGlobals(), (context) =>
        name === undefined ? setAll(context, verb) : setOne(context, name, verb),
      );
    });
}

const doneWord = { pause: 'paused', resume: 'resumed' };

async function setOne(
  { api, print, call }: CommandContext,
  name: string,
  verb: 'pause' | 'resume',
): Promise<void> {
  const policy = { rebuildPaused: verb === 'pause' };
  const changed = await api.updateVolume({ name, policy }, call);
  print.changed(changed, `rebuilds of volume ${changed.metadata.name} ${doneWord[verb]}`);
}

/** Goes on after an error, so that one volume does not keep the others; the first one is thrown. */
async function setAll(
  { api, print, call, nowMs, signal }: CommandContext,
  verb: 'pause' | 'resume',
): Promise<void> {
  const rebuildPaused = verb === 'pause';
  const { volumes } = await api.listVolumes({}, call);
  const done: Volume[] = [];
  const failures: StorError[] = [];
  for (const { metadata, spec } of volumes) {
    if (spec.policy.rebuildPaused === rebuildPaused) continue;
    signal.throwIfAborted();
    try {
      const policy = { rebuildPaused };
      done.push(await api.updateVolume({ name: metadata.id, policy }, call));
    } catch (error) {
      const failure = StorError.from(error);
      // it was removed meanwhile: nothing of it is rebuilt
      if (failure.code !== 'NOT_FOUND') failures.push(failure);
    }
  }
  const [first] = failures;
  if (first !== undefined) {
    throw new StorError(
      first.code,
      `rebuilds of ${done.length} volumes ${doneWord[verb]}, of ${failures.length} not: ${first.message}`,
      { cause: first },
    );
  }
  if (print.forPeople) {
    print.facts(
      {},
      `rebuilds of ${count(done.length)} ${doneWord[verb]}${others(volumes, done, verb)}\n`,
    );
  } else {
    print.list(done, volumeColumns(nowMs));
  }
}

function count(volumes: number): string {
  return volumes === 1 ? '1 volume' : `${volumes} volumes`;
}

function others(
  volumes: readonly Volume[],
  done: readonly Volume[],
  verb: 'pause' | 'resume',
): string {
  const same = volumes.length - done.length;
  if (same === 0) return '';
  const were = same === 1 ? 'was' : 'were';
  return `; ${count(same)} ${verb === 'pause' ? `${were} paused before` : `${were} not paused`}`;
}
