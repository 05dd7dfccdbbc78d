import { InvalidArgumentError, type Command } from 'commander';
import { StorError } from '@stor/protocol';
import type { Volume } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { waitForVolume } from '../wait-for-volume.ts';

type Replica = Volume['status']['replicas'][number];

interface MoveOptions {
  to: string;
  wait: boolean;
  segment?: number;
}

/** Replicas that an error names: a volume may have hundreds. */
const maxListed = 12;

export function addMoveCommands(volume: Command, run: RunAction): void {
  volume
    .command('move')
    .argument('<volume>', 'name or id')
    .argument('<replica>', 'its id, or the node (name or id) that it is on')
    .requiredOption('--to <node>', 'node (name or id), or NODE/DISK with a disk (id or path)')
    .option('--segment <index>', 'which of several replicas on that node', parseSegment)
    .option('--no-wait', 'return at once instead of when the replica has moved')
    .description(
      'move a replica to another node or disk: a new one is filled, then the old one leaves',
    )
    .addHelpText(
      'after',
      `
The volume is served meanwhile and never has fewer replicas in sync than before.

Examples:
  storctl volume move db n2 --to n4
  storctl volume move db r-0123456789abcdef --to n4//mnt/nvme1
  storctl volume move db n2 --to n2//mnt/nvme1      # another disk of the same node
  storctl volume move archive n2 --segment 3 --to n4`,
    )
    .action(async (name: string, replica: string, options: MoveOptions, command: Command) =>
      run(command.optsWithGlobals(), (context) => moveReplica(context, name, replica, options), {
        longRunning: options.wait,
      }),
    );
  volume
    .command('move-primary')
    .argument('<volume>', 'name or id')
    .requiredOption('--to <node>', 'node (name or id) that becomes the primary')
    .description('hand a volume over to another node while it is in use')
    .addHelpText(
      'after',
      `
Requests are held for a moment and none fails; open connections stay, and are relayed to the new
primary by the old one. Use it before work on a node, or to bring the primary to its clients.

Examples:
  storctl volume move-primary db --to n2`,
    )
    .action(async (name: string, options: { to: string }, command: Command) =>
      run(command.optsWithGlobals(), (context) => movePrimary(context, name, options.to)),
    );
}

async function moveReplica(
  context: CommandContext,
  name: string,
  replica: string,
  { to, wait, segment }: MoveOptions,
): Promise<void> {
  const { api, print, call } = context;
  const volume = await api.getVolume({ name }, call);
  const from = findReplica(volume, replica, segment);
  const target = await findTarget(context, to);
  const moving = await api.moveReplica(
    { name: volume.metadata.id, replica: from.id, node: target.nodeId, disk: target.diskId },
    call,
  );
  const volumeName = volume.metadata.name;
  const isSameNode = from.nodeId === target.nodeId;
  const where = isSameNode ? `another disk of ${target.node}` : target.node;
  if (!wait || print.forPeople) {
    const old = isSameNode ? 'the old one' : `the one on ${from.node}`;
    print.changed(
      moving,
      `volume ${volumeName}: the replica on ${from.node} moves to ${where}\nnext: a new replica on ${where} is filled, then ${old} leaves`,
    );
  }
  if (!wait) return;
  const done = await waitForVolume(context, moving, ({ status }) => {
    const isThere = status.replicas.some(
      (replica) =>
        replica.segment === from.segment &&
        replica.nodeId === target.nodeId &&
        replica.state === 'in-sync' &&
        !replica.leaving,
    );
    return isThere && !status.replicas.some(({ id }) => id === from.id);
  });
  print.changed(done, `volume ${volumeName} has the replica on ${where} now`);
}

function findReplica(volume: Volume, replica: string, segment: number | undefined): Replica {
  const replicas = volume.status.replicas.filter(
    (each) => segment === undefined || each.segment === segment,
  );
  const found = replicas.filter(
    ({ id, node, nodeId }) => id === replica || node === replica || nodeId === replica,
  );
  const [first, ...others] = found;
  if (first !== undefined && others.length === 0) return first;
  const { name } = volume.metadata;
  if (new Set(found.map((each) => each.segment)).size > 1) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `node ${replica} has replicas of ${found.length} segments of volume ${name}: say which with --segment; "storctl volume inspect ${name}" shows them`,
    );
  }
  const shown = replicas.slice(0, maxListed).map(({ id, node }) => `${id} on ${node}`);
  const more = replicas.length > maxListed ? ` and ${replicas.length - maxListed} more` : '';
  throw new StorError(
    first === undefined ? 'NOT_FOUND' : 'INVALID_ARGUMENT',
    `${first === undefined ? 'no' : 'more than one'} replica of volume ${name} is ${JSON.stringify(replica)}: it has ${shown.join(', ')}${more}`,
  );
}

function parseSegment(text: string): number {
  if (/^[0-9]{1,4}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('it is an index: 0, 1, and so on.');
}

/** `NODE` or `NODE/DISK`; a disk is named by its id or name, or by its path: `n4//mnt/nvme1`. */
async function findTarget(
  { api, call }: CommandContext,
  to: string,
): Promise<{ nodeId: string; node: string; diskId: string }> {
  const slash = to.indexOf('/');
  const nodeName = slash < 0 ? to : to.slice(0, slash);
  const diskName = slash < 0 ? '' : to.slice(slash + 1);
  const { metadata } = await api.getNode({ name: nodeName }, call);
  const target = { nodeId: metadata.id, node: metadata.name };
  if (slash < 0) return { ...target, diskId: '' };
  const { disks } = await api.listDisks({}, call);
  const found = disks.find(
    (disk) =>
      disk.spec.nodeId === metadata.id &&
      [disk.metadata.id, disk.metadata.name, disk.spec.path].includes(diskName),
  );
  if (found !== undefined) return { ...target, diskId: found.metadata.id };
  throw new StorError(
    'NOT_FOUND',
    `node ${metadata.name} has no disk ${JSON.stringify(diskName)}; "storctl disk ls --node ${metadata.name} -o wide" shows its disks`,
  );
}

async function movePrimary(
  { api, print, call }: CommandContext,
  name: string,
  to: string,
): Promise<void> {
  const before = await api.getVolume({ name }, call);
  const node = await api.getNode({ name: to }, call);
  const volumeName = before.metadata.name;
  const from = before.status.primary;
  if (from?.nodeId === node.metadata.id) {
    print.changed(before, `volume ${volumeName} is served by ${from.node} already`);
    return;
  }
  const moved = await api.movePrimary({ name: before.metadata.id, node: node.metadata.id }, call);
  const was = from === null ? '' : `, before by ${from.node}`;
  print.changed(
    moved,
    `volume ${volumeName} is served by ${moved.status.primary?.node ?? node.metadata.name} now${was}: ${moved.status.nbdUri}`,
  );
}
