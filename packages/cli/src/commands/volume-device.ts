import { Option, type Command } from 'commander';
import { formatByteSize, StorError } from '@stor/protocol';
import type { CallOptions, Device } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import type { Column } from '../core/table.ts';

/** Becoming primary, a check and a mkfs may come before the answer (ms). */
const deviceTimeoutMs = 120_000;

export function deviceCall(call: CallOptions): CallOptions {
  return { timeoutMs: deviceTimeoutMs, ...call };
}

/** Volumes as block devices and mounts of hosts, besides attach and detach. */
export function addDeviceCommands(volume: Command, run: RunAction): void {
  addMount(volume, run);
  addUnmount(volume, run);
  addDevices(volume, run);
}

/** `volume attach --device` */
export async function attachDevice(
  { api, print, call }: CommandContext,
  request: { name: string; node: string; readOnly: boolean },
): Promise<void> {
  const device = await api.attachDevice(request, deviceCall(call));
  print.answer({ ...device }, `${device.path}\n`);
}

interface MountFlags {
  node: string;
  fs?: string;
  options?: string[];
  mkfs?: string[];
  readOnly?: true;
}

function addMount(volume: Command, run: RunAction): void {
  const words = (word: string, known: string[] = []): string[] => [...known, ...word.split(',')];
  volume
    .command('mount')
    .argument('<volume>', 'name or id')
    .argument('<target>', 'absolute path of a directory on that node; made when it is not there')
    .option('--node <node>', 'host that mounts it (default: the node that answers)', '')
    .addOption(
      new Option(
        '--fs <kind>',
        'of a volume without one; another one that is there is refused (default: ext4)',
      ).choices(['ext4', 'xfs']),
    )
    .option('--options <list>', 'of mount(8), for example noatime,discard', words)
    .option(
      '--mkfs <word>',
      'an argument for mkfs, if one is made; may be given again',
      (word: string, known: string[] = []) => [...known, word],
    )
    .option('--read-only', 'mount it for reading only')
    .description('attach a volume as a device and mount its file system')
    .addHelpText(
      'after',
      `
A file system is made only on a volume that carries no signature of any kind and no data. The mount
outlives the agent, and not the host: after a reboot give the command again.

Examples:
  storctl volume mount db /mnt/db
  storctl volume mount db /mnt/db --fs xfs --options noatime --node n2
  storctl volume mount db /mnt/db --mkfs -L --mkfs data`,
    )
    .action(async (name: string, target: string, flags: MountFlags, command: Command) => {
      checkAbsolute(target);
      const { node, fs: fileSystem = '', options = [], mkfs: formatOptions = [] } = flags;
      const readOnly = flags.readOnly ?? false;
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const device = await api.mountVolume(
          { name, node, target, fileSystem, options, formatOptions, readOnly },
          deviceCall(call),
        );
        const mount = device.mounts.find((each) => each.target === target) ?? device.mounts.at(-1);
        const what = `${mount?.fileSystem ?? 'file system'}${readOnly ? ', read-only' : ''}`;
        print.facts(
          { ...device },
          `volume ${device.volume} mounted at ${mount?.target ?? target} on ${device.node} (${what}, ${device.path})\n`,
        );
      });
    });
}

function addUnmount(volume: Command, run: RunAction): void {
  volume
    .command('unmount')
    .alias('umount')
    .argument('<volume>', 'name or id, or the absolute path where it is mounted')
    .option(
      '--node <node>',
      'host that has it (default: the one that the volume is published to)',
      '',
    )
    .description('end mounts that "volume mount" has made; the device goes with the last one')
    .addHelpText(
      'after',
      `
Of a volume all of them end, of a path the one there. A path is looked up on the node that answers, unless
--node says which.

Examples:
  storctl volume unmount db
  storctl volume unmount /mnt/db --node n2`,
    )
    .action(async (what: string, { node }: { node: string }, command: Command) => {
      const isTarget = what.startsWith('/');
      const request = { name: isTarget ? '' : what, node, target: isTarget ? what : '' };
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        await api.unmountVolume(request, deviceCall(call));
        const text = isTarget ? `${what} is not mounted any more` : `volume ${what} unmounted`;
        print.facts({ ...request, unmounted: true }, `${text}\n`);
      });
    });
}

function addDevices(volume: Command, run: RunAction): void {
  volume
    .command('devices')
    .option('--node <node>', 'host to look at (default: all that are up)', '')
    .description('list volumes that are block devices of hosts, and where they are mounted')
    .addHelpText(
      'after',
      `
A node that does not answer is left out, with a note.

Examples:
  storctl volume devices
  storctl volume devices --node n2 -o wide`,
    )
    .action(async ({ node }: { node: string }, command: Command) =>
      run(command.optsWithGlobals(), (context) => listDevices(context, node)),
    );
}

async function listDevices({ api, io, print, call }: CommandContext, node: string): Promise<void> {
  if (node !== '') {
    const { devices } = await api.listDevices({ node }, call);
    print.rows(devices, deviceColumns, ({ path }) => path);
    return;
  }
  const { nodes } = await api.listNodes({}, call);
  const up = nodes.filter(({ status }) => status.state === 'up');
  const asked = await Promise.all(
    up.map(async ({ metadata }) => {
      try {
        return (await api.listDevices({ node: metadata.id }, call)).devices;
      } catch (thrown) {
        const { message } = StorError.from(thrown);
        io.stderr.write(`note: devices of ${metadata.name} are not shown: ${message}\n`);
        return [];
      }
    }),
  );
  print.rows(asked.flat(), deviceColumns, ({ path }) => path);
}

const deviceColumns: readonly Column<Device>[] = [
  { title: 'NODE', cell: ({ node }) => node },
  { title: 'VOLUME', cell: ({ volume }) => volume },
  { title: 'DEVICE', cell: ({ path }) => path },
  { title: 'SIZE', cell: ({ sizeBytes }) => formatByteSize(sizeBytes), right: true },
  { title: 'MODE', cell: ({ readOnly }) => (readOnly ? 'read-only' : 'read-write') },
  { title: 'USED BY', cell: ({ users }) => users.join(', ') },
  {
    title: 'MOUNTED AT',
    cell: ({ mounts }) => mounts.map(({ target }) => target).join(', '),
  },
  { title: 'STATE', cell: ({ failure }) => (failure === '' ? 'ok' : failure) },
  { title: 'MEANS', cell: ({ means }) => means, wide: true },
  { title: 'PUBLICATION', cell: ({ publication }) => publication, wide: true },
];

/** It is looked up on the node. */
function checkAbsolute(target: string): void {
  if (target.startsWith('/')) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `target ${JSON.stringify(target)} is not absolute: it is looked up on the node, so write it from / on`,
  );
}
