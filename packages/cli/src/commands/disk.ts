import { resolve } from 'node:path';
import type { Command } from 'commander';
import { StorError, formatByteSize } from '@stor/protocol';
import type { RunAction } from '../command-context.ts';
import { diskColumns } from '../resource-views.ts';

export function addDiskCommands(program: Command, run: RunAction): void {
  const disk = program
    .command('disk')
    .description('directories given to the cluster to store replicas');
  disk
    .command('ls')
    .alias('list')
    .option('--node <node>', 'only the disks of this node (name or id)')
    .description('list the disks of all nodes')
    .addHelpText('after', '\nExamples:\n  storctl disk ls\n  storctl disk ls --node n1 -o json')
    .action(async (options: { node?: string }, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const [{ disks }, { nodes }] = await Promise.all([
          api.listDisks({}, call),
          api.listNodes({}, call),
        ]);
        const names = new Map(nodes.map((node) => [node.metadata.id, node.metadata.name]));
        const wanted = options.node;
        if (wanted !== undefined && ![...names].flat().includes(wanted)) {
          throw new StorError(
            'NOT_FOUND',
            `node ${JSON.stringify(wanted)} does not exist; "storctl node ls" shows those that do`,
          );
        }
        const rows = disks.map((found) => ({
          ...found,
          node: names.get(found.spec.nodeId) ?? found.spec.nodeId,
        }));
        print.list(
          rows.filter(
            (row) => wanted === undefined || row.node === wanted || row.spec.nodeId === wanted,
          ),
          diskColumns,
        );
      }),
    );
  disk
    .command('add')
    .argument('<node>', 'name or id')
    .argument('<path>', 'absolute path of an empty directory on that node')
    .option('--tag <tag>', 'what kind of disk it is, for example ssd or hdd', 'any')
    .description('give a directory of a node to the cluster')
    .addHelpText('after', '\nExamples:\n  storctl disk add n1 /mnt/nvme0 --tag ssd')
    .action(async (node: string, path: string, options: { tag: string }, command: Command) => {
      if (resolve(path) !== path && `${resolve(path)}/` !== path) {
        throw new StorError(
          'INVALID_ARGUMENT',
          `path ${JSON.stringify(path)} is not absolute: it is looked up on the node, so write it from / on`,
        );
      }
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const added = await api.addDisk({ node, path: resolve(path), tag: options.tag }, call);
        const { metadata, spec, status } = added;
        print.changed(
          added,
          `disk ${metadata.id} added to node ${node}: ${spec.path}, ${formatByteSize(status.freeBytes)} free`,
        );
      });
    });
}
