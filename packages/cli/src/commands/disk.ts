import { resolve } from 'node:path';
import type { Command } from 'commander';
import { StorError, formatByteSize, reserveBytes } from '@stor/protocol';
import type { Disk } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { parseNewLabels } from '../core/label-arguments.ts';
import { diskColumns, diskSheet } from '../disk-views.ts';
import { watchFlag, watchHelp, watchObjects, watchText } from '../watch-objects.ts';
import { disksView } from '../watch-views.ts';
import { addEvacuateCommand } from './disk-evacuate.ts';
import { addSetCommand } from './disk-set.ts';

/** A device is looked at, formatted and mounted before the answer (ms). */
const addTimeoutMs = 90_000;

export function addDiskCommands(program: Command, run: RunAction): void {
  const disk = program
    .command('disk')
    .description('directories and devices given to the cluster to store replicas');
  addList(disk, run);
  addAdd(disk, run);
  addInspect(disk, run);
  addEvacuateCommand(disk, run);
  addSetCommand(disk, run);
  addRemove(disk, run);
}

function addList(disk: Command, run: RunAction): void {
  disk
    .command('ls')
    .alias('list')
    .option('--node <node>', 'only the disks of this node (name or id)')
    .option(watchFlag, watchText)
    .description('list the disks of all nodes')
    .addHelpText(
      'after',
      `
STATE: online; evacuating; failing (it had I/O errors: what it holds moves elsewhere); failed (its
replicas are rebuilt elsewhere); offline. SPACE: nearly full from 80 %, full from 95 %, without the
reserve.
${watchHelp}
Examples:
  storctl disk ls
  storctl disk ls --node n1 -o json
  storctl disk ls -w`,
    )
    .action(async (options: ListOptions, command: Command) =>
      run(command.optsWithGlobals(), (context) => list(context, options), {
        longRunning: options.watch === true,
      }),
    );
}

interface ListOptions {
  node?: string;
  watch?: true;
}

async function list(context: CommandContext, { node: wanted, watch }: ListOptions): Promise<void> {
  const { api, print, call } = context;
  const [{ disks }, { nodes }] = await Promise.all([
    api.listDisks({}, call),
    api.listNodes({}, call),
  ]);
  const names = new Map(nodes.map((node) => [node.metadata.id, node.metadata.name]));
  if (wanted !== undefined && ![...names].flat().includes(wanted)) {
    throw new StorError(
      'NOT_FOUND',
      `node ${JSON.stringify(wanted)} does not exist; "storctl node ls" shows those that do`,
    );
  }
  if (watch === true) {
    const [nodeId] = [...names].find((one) => wanted !== undefined && one.includes(wanted)) ?? [];
    await watchObjects(context, disksView(context, names, nodeId));
    return;
  }
  const rows = disks.map((found) => ({
    ...found,
    node: names.get(found.spec.nodeId) ?? found.spec.nodeId,
  }));
  print.list(
    rows.filter((row) => wanted === undefined || row.node === wanted || row.spec.nodeId === wanted),
    diskColumns,
  );
}

interface AddOptions {
  tag?: string[];
  reserve?: string;
  forceFormat?: true;
}

function addAdd(disk: Command, run: RunAction): void {
  disk
    .command('add')
    .argument('<node>', 'name or id')
    .argument('<path>', 'absolute path of an empty directory, or of a block device, on that node')
    .option(
      '--tag <tag>',
      'what kind of disk it is, such as ssd or hdd, or a label KEY=VALUE; may be given again',
      (word: string, words: string[] = []) => [...words, word],
    )
    .option('--reserve <share>', 'what replicas may not use: 10% or 20GiB (default: 1 %)')
    .option('--force-format', 'DESTROY what is on a block device that is not empty')
    .description('give a directory or a block device of a node to the cluster')
    .addHelpText(
      'after',
      `
A directory must be empty and lie on a local file system, ext4 or xfs. A block device must be empty: no
signature, no partitions, zeros at both ends; it is formatted with XFS and mounted by the agent (as
root), now and at each start. A disk of another cluster, node or newer version is refused.

Examples:
  storctl disk add n1 /mnt/nvme0 --tag ssd
  storctl disk add n1 /dev/sdb --tag hdd --tag shelf=3 --reserve 10%`,
    )
    .action(async (node: string, path: string, options: AddOptions, command: Command) => {
      if (resolve(path) !== path && `${resolve(path)}/` !== path) {
        throw new StorError(
          'INVALID_ARGUMENT',
          `path ${JSON.stringify(path)} is not absolute: it is looked up on the node, so write it from / on`,
        );
      }
      const { tag, labels } = readTags(options.tag ?? []);
      const reserve = options.reserve ?? '';
      // said at once when it is none; the node knows the size of the disk
      reserveBytes(reserve, Number.MAX_SAFE_INTEGER);
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const added = await api.addDisk(
          {
            node,
            path: resolve(path),
            tag,
            labels,
            reserve,
            forceFormat: options.forceFormat ?? false,
          },
          { timeoutMs: addTimeoutMs, ...call },
        );
        const { metadata, spec, status } = added;
        const place = spec.device === '' ? spec.path : `${spec.device} at ${spec.path}`;
        const note = status.message === '' ? '' : `\nnote: ${status.message}`;
        print.changed(
          added,
          `disk ${metadata.id} added to node ${node}: ${place}, ${formatByteSize(status.freeBytes)} free${note}`,
        );
      });
    });
}

/** `ssd` is the tag, of which a disk has one; `shelf=3` is a label. */
function readTags(words: readonly string[]): { tag: string; labels: Record<string, string> } {
  const labels = parseNewLabels(words.filter((word) => word.includes('=')));
  const tags = [...new Set(words.filter((word) => !word.includes('=')))];
  const [tag = 'any', ...others] = tags;
  if (others.length > 0) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `a disk has one tag, not ${tags.join(' and ')}: give the others as labels, --tag KEY=VALUE`,
    );
  }
  return { tag, labels };
}

const diskArgument = 'id, NODE:PATH, or a path that only one node has';

function addInspect(disk: Command, run: RunAction): void {
  disk
    .command('inspect')
    .argument('<disk>', diskArgument)
    .description('show a disk, its replicas, what becomes of it and what to do')
    .addHelpText('after', '\nExamples:\n  storctl disk inspect n1:/mnt/nvme0')
    .action(async (name: string, _options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const inspection = await api.inspectDisk({ disk: name }, call);
        if (print.quiet || print.format === 'name') print.one(inspection.disk, '');
        else print.answer({ ...inspection }, diskSheet(inspection));
      }),
    );
}

function addRemove(disk: Command, run: RunAction): void {
  disk
    .command('rm')
    .argument('<disk>', diskArgument)
    .option('--lost', 'it failed or is gone for good, and its replicas are replaced already')
    .description('take an empty disk out of the cluster')
    .addHelpText(
      'after',
      `
Its node closes it, takes its own files out of a directory, and unmounts a device. Empty it before
with "storctl disk evacuate".

Examples:
  storctl disk rm n1:/mnt/nvme0
  storctl disk rm d-0123456789abcdef --lost`,
    )
    .action(async (name: string, options: { lost?: true }, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const { disk: found } = await api.inspectDisk({ disk: name }, call);
        const { id } = found.metadata;
        await api.removeDisk({ disk: id, lost: options.lost ?? false }, call);
        print.changed(found, removedText(found));
      }),
    );
}

function removedText({ metadata, spec }: Disk): string {
  const left =
    spec.device === '' ? '' : `; device ${spec.device} still has its XFS: wipe it before other use`;
  return `disk ${metadata.id} (${metadata.name}) is taken out${left}`;
}
