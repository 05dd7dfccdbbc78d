import type { Command } from 'commander';
import { formatByteSize, hasCode, parseByteSize, StorError } from '@stor/protocol';
import type { Volume } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { deviceCall } from './volume-device.ts';

export function addResizeCommand(volume: Command, run: RunAction): void {
  volume
    .command('resize')
    .argument('<volume>', 'name or id')
    .argument('<size>', 'new size with a unit, for example 40GiB; larger than now')
    .description('make a volume larger while it is in use')
    .addHelpText(
      'after',
      `
Who connects after it sees the new size; a connection that is open keeps the old one, and its file
system grows after it has connected anew (resize2fs, xfs_growfs). Devices of hosts, and the file systems that
are mounted on them, grow at once. A volume never becomes smaller. When it is broken off, the volume has one
size or the other: give the same command again.

Examples:
  storctl volume resize db 40GiB`,
    )
    .action(async (name: string, size: string, _options: object, command: Command) => {
      const sizeBytes = parseByteSize(size);
      await run(command.optsWithGlobals(), (context) => resizeVolume(context, name, sizeBytes), {
        longRunning: true,
      });
    });
}

async function resizeVolume(
  { api, print, call }: CommandContext,
  name: string,
  sizeBytes: number,
): Promise<void> {
  const before = await api.getVolume({ name }, call);
  const after = await api.resizeVolume({ name: before.metadata.id, sizeBytes }, call);
  const { name: volumeName } = after.metadata;
  const now = formatByteSize(after.spec.sizeBytes);
  if (before.spec.sizeBytes === after.spec.sizeBytes) {
    print.changed(after, `volume ${volumeName} has ${now} already`);
    return;
  }
  const was = formatByteSize(before.spec.sizeBytes);
  const notes = await growDevices({ api, call }, after);
  print.changed(after, [`volume ${volumeName} has ${now} now, before ${was}`, ...notes].join('\n'));
}

/** Hosts look after their devices themselves, but not in the same moment. */
async function growDevices(
  { api, call }: Pick<CommandContext, 'api' | 'call'>,
  { metadata, status }: Volume,
): Promise<string[]> {
  const { publications } = status;
  if (publications.length === 0) return ['next: clients see it when they connect anew'];
  return Promise.all(
    publications.map(async ({ node, nodeId }) => {
      try {
        const device = await api.growDevice({ name: metadata.id, node: nodeId }, deviceCall(call));
        return `device ${device.path} of ${node} has ${formatByteSize(device.sizeBytes)} now`;
      } catch (error) {
        if (hasCode(error, 'NOT_FOUND'))
          return `next: clients of ${node} see it when they connect anew`;
        return `note: the device of ${node} grows later: ${StorError.from(error).message}`;
      }
    }),
  );
}
