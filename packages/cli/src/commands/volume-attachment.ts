import type { Command } from 'commander';
import { hasCode, StorError } from '@stor/protocol';
import type { PublicationView, Volume } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { confirmUnsafe } from '../confirm.ts';
import { formatTime } from '../resource-views.ts';
import { attachDevice, deviceCall } from './volume-device.ts';

/** attach and detach, and what helps when they cannot: fence and recover. */
export function addAttachmentCommands(volume: Command, run: RunAction): void {
  addAttach(volume, run);
  addDetach(volume, run);
  addPublish(volume, run);
  addUnpublish(volume, run);
  addFence(volume, run);
  addRecover(volume, run);
}

interface AttachFlags {
  node: string;
  device?: true;
  readOnly?: true;
}

function addAttach(volume: Command, run: RunAction): void {
  volume
    .command('attach')
    .argument('<volume>', 'name or id')
    .option(
      '--node <node>',
      'node that becomes the primary, or host of the device (default: the one that answers)',
      '',
    )
    .option('--device', 'make a block device of that host, and print its path')
    .option('--read-only', 'with --device: it can only be read')
    .description('keep a volume attached to a node, or as a device of a host, until it is detached')
    .addHelpText(
      'after',
      `
A device belongs to one host at a time; one whose node is down loses it to the next. It outlives restarts
of the agent and goes on with other nodes when this one is down, but not a reboot of the host.

Examples:
  storctl volume attach db --node n2
  storctl volume attach db --device
  mkfs.ext4 "$(storctl volume attach db --device --node n2)"`,
    )
    .action(async (name: string, flags: AttachFlags, command: Command) => {
      const { node, device = false, readOnly = false } = flags;
      if (readOnly && !device) {
        throw new StorError('INVALID_ARGUMENT', '--read-only goes with --device');
      }
      await run(command.optsWithGlobals(), async (context) => {
        if (device) return attachDevice(context, { name, node, readOnly });
        const { api, print, call } = context;
        const attached = await api.attachVolume({ name, node }, call);
        const holder = attached.status.primary?.node ?? (node || 'a node');
        print.changed(
          attached,
          `volume ${attached.metadata.name} attached to ${holder}: ${attached.status.nbdUri}`,
        );
      });
    });
}

interface DetachFlags {
  node: string;
  device?: true;
  force?: true;
}

function addDetach(volume: Command, run: RunAction): void {
  volume
    .command('detach')
    .argument('<volume>', 'name or id')
    .option('--device', 'only the block device; who else is connected stays')
    .option('--node <node>', 'with --device: host that has it (default: the only one)', '')
    .option('--force', 'with --device: also while it is in use, and its requests fail')
    .description('finish what is in flight, close the connections and give the volume free')
    .addHelpText(
      'after',
      `
A block device of the volume is taken away first. That is refused while it is mounted, open, or used by
containers.

Examples:
  storctl volume detach db
  storctl volume detach db --device --node n2`,
    )
    .action(async (name: string, flags: DetachFlags, command: Command) => {
      if (!flags.device && (flags.force || flags.node !== '')) {
        throw new StorError('INVALID_ARGUMENT', '--force and --node go with --device');
      }
      await run(command.optsWithGlobals(), (context) => detach(context, name, flags));
    });
}

async function detach(
  { api, print, call }: CommandContext,
  name: string,
  { device, node, force }: DetachFlags,
): Promise<void> {
  if (device) {
    await api.detachDevice({ name, node, force: force ?? false }, deviceCall(call));
    const where = node === '' ? 'any host' : node;
    print.facts(
      { name, node, detached: true },
      `volume ${name} is no device of ${where} any more\n`,
    );
    return;
  }
  const { metadata, status } = await api.getVolume({ name }, call);
  for (const { nodeId, node: host } of status.publications) {
    try {
      await api.detachDevice({ name: metadata.id, node: nodeId }, deviceCall(call));
    } catch (error) {
      if (!hasCode(error, 'UNAVAILABLE')) throw error;
      const { message, details } = error;
      throw new StorError(
        'UNAVAILABLE',
        `${message}; what is left of a host that is gone for good ends with "storctl volume unpublish ${metadata.name} --node ${host}"`,
        { cause: error, details: { ...details } },
      );
    }
  }
  const detached = await api.detachVolume({ name: metadata.id }, call);
  print.changed(detached, `volume ${detached.metadata.name} detached`);
}

function addPublish(volume: Command, run: RunAction): void {
  volume
    .command('publish')
    .argument('<volume>', 'name or id')
    .option('--node <node>', 'the host that uses it (default: the node that answers)', '')
    .option('--read-only', 'it may only read')
    .option('--owner <text>', 'who uses it there, for people', '')
    .option('--keep-dead', 'refuse also when the host that has it is down')
    .description('let one host use a volume as a device, and nobody else')
    .addHelpText(
      'after',
      `
For what puts a file system on a volume. From then on only connections to the printed export are served:
a host that comes back from the dead with an older one is refused, even when the new one is not connected
at that moment. A host that is down loses the volume to the next one.

Examples:
  storctl volume publish db --node n2
  storctl volume publish db --node n2 --owner "nightly import"`,
    )
    .action(
      async (
        name: string,
        options: { node: string; readOnly?: true; owner: string; keepDead?: true },
        command: Command,
      ) =>
        run(command.optsWithGlobals(), async ({ api, print, call }) => {
          const { node, readOnly = false, owner, keepDead = false } = options;
          const request = { name, node, readOnly, owner, keepDead };
          const published = await api.publishVolume(request, call);
          const { metadata, status } = published;
          const at = status.publications.find((each) => node === '' || isAt(each, node));
          const where = at ? `${at.node} as export ${at.exportName}` : node;
          print.changed(published, `volume ${metadata.name} published to ${where}`);
        }),
    );
}

function isAt({ node, nodeId }: PublicationView, asked: string): boolean {
  return node === asked || nodeId === asked;
}

function addUnpublish(volume: Command, run: RunAction): void {
  volume
    .command('unpublish')
    .argument('<volume>', 'name or id')
    .option('--node <node>', 'the host that loses it (default: all)', '')
    .option('--force', 'also while its device is connected, whose requests then fail')
    .description('end the right of a host to use a volume as a device')
    .addHelpText(
      'after',
      `
Unmount it and detach its device first. For a host that is gone for good there is nothing else to do.

Examples:
  storctl volume unpublish db
  storctl volume unpublish db --node n2`,
    )
    .action(async (name: string, options: { node: string; force?: true }, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const request = { name, node: options.node, force: options.force ?? false };
        const volumeNow = await api.unpublishVolume(request, call);
        print.changed(volumeNow, `volume ${volumeNow.metadata.name} unpublished`);
      }),
    );
}

function addFence(volume: Command, run: RunAction): void {
  volume
    .command('fence')
    .argument('<volume>', 'name or id')
    .option('-y, --yes', 'do it even while the node that holds it answers')
    .description('take a volume away from its holder without asking: it can write no more')
    .addHelpText(
      'after',
      `
For a holder that does not answer. Nothing acknowledged is lost, but its connections break and what
it was not answered for may be gone. A holder that answers gives a volume free with
"storctl volume detach" without that.

Examples:
  storctl volume fence db
  storctl volume fence db --yes`,
    )
    .action(async (name: string, options: { yes?: true }, command: Command) =>
      run(command.optsWithGlobals(), (context) => fence(context, name, options.yes === true), {
        longRunning: options.yes !== true,
      }),
    );
}

async function fence(context: CommandContext, name: string, yes: boolean): Promise<void> {
  const { api, print, call } = context;
  const before = await api.getVolume({ name }, call);
  const volumeName = before.metadata.name;
  const holder = before.status.primary;
  if (holder !== null && (await isUp(context, holder.nodeId))) {
    await confirmUnsafe(context.io, yes, {
      action: `Fence volume ${volumeName}`,
      risks: [
        `${holder.node} holds it (${holder.mode}, since ${formatTime(holder.sinceMs)}) and is up: its connections break, while "storctl volume detach ${volumeName}" gives the volume free in order`,
      ],
      left: `volume ${volumeName} was not fenced`,
    });
  }
  const fenced = await api.fenceVolume({ name: before.metadata.id }, call);
  const who = holder === null ? 'nobody held it' : `${holder.node} can write to it no more`;
  print.changed(fenced, `volume ${volumeName} fenced at epoch ${fenced.status.epoch}: ${who}`);
}

async function isUp({ api, call }: CommandContext, nodeId: string): Promise<boolean> {
  const { nodes } = await api.listNodes({}, call);
  return nodes.some(({ metadata, status }) => metadata.id === nodeId && status.state === 'up');
}

function addRecover(volume: Command, run: RunAction): void {
  volume
    .command('recover')
    .argument('<volume>', 'name or id')
    .option(
      '--accept-unflushed-loss',
      'begin with the replicas that answer, although writes that were never flushed may be lost',
    )
    .option('-y, --yes', 'do it even when it is not safe')
    .description('try to bring a volume back that is not served')
    .addHelpText(
      'after',
      `
Without --accept-unflushed-loss nothing acknowledged is given up. "storctl volume explain" says what a
volume waits for: bringing the missing nodes back is always the better way.

Examples:
  storctl volume recover db
  storctl volume recover db --accept-unflushed-loss --yes`,
    )
    .action(
      async (name: string, options: { acceptUnflushedLoss?: true; yes?: true }, command: Command) =>
        run(command.optsWithGlobals(), (context) => recover(context, name, options), {
          longRunning: options.yes !== true,
        }),
    );
}

async function recover(
  { api, io, print, call }: CommandContext,
  name: string,
  options: { acceptUnflushedLoss?: true; yes?: true },
): Promise<void> {
  const before = await api.getVolume({ name }, call);
  const volumeName = before.metadata.name;
  const acceptUnflushedLoss = options.acceptUnflushedLoss === true;
  const risks = recoverRisks(before, acceptUnflushedLoss);
  if (risks.length > 0) {
    await confirmUnsafe(io, options.yes === true, {
      action: `Recover volume ${volumeName}`,
      risks,
      left: `volume ${volumeName} was left as it is`,
    });
  }
  const recovered = await api.recoverVolume(
    { name: before.metadata.id, acceptUnflushedLoss },
    call,
  );
  const { health, message } = recovered.status;
  print.changed(
    recovered,
    `volume ${volumeName} is ${health}${message === '' ? '' : `: ${message}`}`,
  );
}

function recoverRisks({ status }: Volume, acceptUnflushedLoss: boolean): string[] {
  const risks: string[] = [];
  if (status.primary !== null && status.serving === 'serving') {
    risks.push(`${status.primary.node} serves it at the moment: its connections break`);
  }
  if (acceptUnflushedLoss) {
    risks.push(
      'writes that were acknowledged and never flushed may be lost for good; those that were flushed stay',
    );
  }
  return risks;
}
