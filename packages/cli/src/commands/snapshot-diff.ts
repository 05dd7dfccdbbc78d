import type { Command } from 'commander';
import { StorError, formatByteSize, parseSnapshotName } from '@stor/protocol';
import type { SnapshotDiff } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { renderTable } from '../core/table.ts';

export function addDiffCommand(snapshot: Command, run: RunAction): void {
  snapshot
    .command('diff')
    .argument('<from>', 'VOLUME@SNAPSHOT')
    .argument('[to]', 'another snapshot of that volume (default: the volume as it is now)')
    .description('list what differs between two snapshots')
    .addHelpText(
      'after',
      `
In whole chunks of 256KiB: surely all bytes that differ, and some that do not. Nothing is read but maps, so
it takes no time. NBD clients get the same as block status "stor:dirty-since-SNAPSHOT".

Examples:
  storctl snapshot diff db@monday
  storctl snapshot diff db@monday db@tuesday -o json`,
    )
    .action(async (from: string, to: string | undefined, _options: object, command: Command) => {
      const first = parseSnapshotName(from);
      const second = to === undefined ? null : parseSnapshotName(to);
      if (second !== null && second.volume !== first.volume) {
        throw new StorError(
          'INVALID_ARGUMENT',
          `${from} and ${to ?? ''} are snapshots of two volumes: only those of one can be compared`,
        );
      }
      const { volume } = first;
      const request = { volume, from: first.snapshot, to: second?.snapshot ?? '' };
      await run(command.optsWithGlobals(), async (context) => {
        const { sizeBytes, extents } = await wholeDiff(context, request);
        const changedBytes = extents.reduce((sum, { length }) => sum + length, 0);
        const facts = { from, to: to ?? volume, sizeBytes, changedBytes, extents };
        const table = renderTable(
          extents,
          [
            { title: 'OFFSET', cell: ({ offset }) => `${offset}`, right: true },
            { title: 'LENGTH', cell: ({ length }) => `${length}`, right: true },
          ],
          { wide: false, headers: true },
        );
        const places = extents.length === 1 ? '1 place' : `${extents.length} places`;
        const sum = `${formatByteSize(changedBytes)} of ${formatByteSize(sizeBytes)} may differ, in ${places}\n`;
        context.print.answer(facts, extents.length === 0 ? 'nothing differs\n' : `${table}${sum}`);
      });
    });
}

async function wholeDiff(
  { api, call }: CommandContext,
  request: { volume: string; from: string; to: string },
): Promise<Omit<SnapshotDiff, 'nextOffset'>> {
  const extents: SnapshotDiff['extents'] = [];
  for (let offset = 0; ;) {
    const part = await api.diffSnapshots({ ...request, offset }, call);
    extents.push(...part.extents);
    if (part.nextOffset === null) return { sizeBytes: part.sizeBytes, extents };
    offset = part.nextOffset;
  }
}
