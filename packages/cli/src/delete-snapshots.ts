import type { Snapshot } from '@stor/protocol';
import type { CommandContext } from './command-context.ts';

/** By their ids: a name may have gone to another snapshot since it was looked up. */
export async function deleteSnapshots(
  { api, print, call }: CommandContext,
  snapshots: readonly Snapshot[],
): Promise<void> {
  const done: { name: string; deleted: true }[] = [];
  for (const { metadata, status } of snapshots) {
    // an orphan is known by its volume only
    const isOrphan = status.state === 'orphan';
    await api.deleteSnapshot({ name: isOrphan ? metadata.name : metadata.id }, call);
    const { name } = metadata;
    done.push({ name, deleted: true });
    if (print.forPeople) print.facts({}, `snapshot ${name} deleted\n`);
  }
  if (print.forPeople || print.quiet) return;
  const [only, ...others] = done;
  if (only && others.length === 0) print.facts(only, '');
  else print.rows(done, [], ({ name }) => name);
}
