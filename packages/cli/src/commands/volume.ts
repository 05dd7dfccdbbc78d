import { Option, type Command } from 'commander';
import {
  StorError,
  blockBytes,
  checkQos,
  checkVolumeName,
  formatByteSize,
  hasCode,
  maxTrashKeepMs,
  parseByteSize,
} from '@stor/protocol';
import type { PlacementRules, QosSpec, Volume, VolumePolicy } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { formatWait, parsePolicyTimeMs } from '../core/duration.ts';
import { parseNewLabels } from '../core/label-arguments.ts';
import { shapeChanges } from '../core/policy-text.ts';
import { bySegment, nodesOf } from '../core/segment-view.ts';
import {
  addPolicyOptions,
  parseReplicas,
  readPolicy,
  type PolicyOptions,
} from '../policy-options.ts';
import { addPlacementOptions, readPlacement, type PlacementOptions } from '../placement-options.ts';
import {
  addPolicyNameOption,
  addQosOption,
  qosHelp,
  readPolicyName,
  readQos,
  type PolicyNameOptions,
  type QosOptions,
} from '../qos-options.ts';
import { formatTime, usedSpace, volumeColumns, volumeSheet } from '../resource-views.ts';
import { watchFlag, watchHelp, watchObjects, watchText } from '../watch-objects.ts';
import { volumesView, volumeView } from '../watch-views.ts';
import { addAttachmentCommands } from './volume-attachment.ts';
import { addDeviceCommands } from './volume-device.ts';
import { addExplainCommand } from './volume-explain.ts';
import { addMoveCommands } from './volume-move.ts';
import { addResizeCommand } from './volume-resize.ts';
import { addSnapshotVerbs } from './volume-snapshots.ts';
import { addUpdateCommand } from './volume-update.ts';
import { addUriCommand } from './volume-uri.ts';

export function addVolumeCommands(program: Command, run: RunAction): Command {
  const volume = program.command('volume').alias('vol').description('replicated block volumes');
  addCreate(volume, run);
  addViews(volume, run);
  addUriCommand(volume, run);
  addExplainCommand(volume, run);
  addUpdateCommand(volume, run);
  addResizeCommand(volume, run);
  addMoveCommands(volume, run);
  addAttachmentCommands(volume, run);
  addDeviceCommands(volume, run);
  addSnapshotVerbs(volume, run);
  addRemove(volume, run);
  return volume;
}

interface CreateOptions extends PolicyOptions, PlacementOptions, QosOptions, PolicyNameOptions {
  size: string;
  segmentSize?: string;
  replicas?: number;
  label?: string[];
  diskTag?: string;
  on?: string;
  ifExists: 'error' | 'ok';
}

/** Later changes of the replica count may leave such a threshold behind; at first it is a mistake. */
function checkThreshold(
  { failureMode }: Partial<VolumePolicy>,
  replicas: number | undefined,
): void {
  const threshold = Number(/^threshold=([0-9]+)$/.exec(failureMode ?? '')?.[1] ?? 0);
  if (replicas === undefined || threshold <= replicas) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `threshold=${threshold} is more than ${replicas} replicas: use at most threshold=${replicas}, or more replicas`,
  );
}

interface CreateRequest {
  name: string;
  sizeBytes: number;
  replicas: number;
  labels: Record<string, string>;
  segmentBytes?: number;
  policy?: Partial<VolumePolicy>;
  diskTag?: string;
  placement?: PlacementRules;
  onNode?: string;
  qos?: QosSpec;
  policyName?: string;
}

function addCreate(volume: Command, run: RunAction): void {
  const create = volume
    .command('create')
    .argument('<name>', 'letters, digits, ".", "_" and "-"')
    .requiredOption('--size <size>', 'size with a unit, for example 20GiB')
    .option(
      '--replicas <count>',
      'copies on different nodes (default: 3, or all nodes if fewer)',
      parseReplicas,
    )
    .option(
      '--segment-size <size>',
      'size of the parts that are placed on their own, a multiple of 4MiB (default: 64GiB)',
    )
    .option('--label <key=value>', 'label of the volume; may be given more than once', collect)
    .option('--disk-tag <tag>', 'only disks of this tag take its replicas, for example ssd')
    .option('--on <node>', 'this node (name or id) gets a replica if it fits')
    .addOption(
      new Option('--if-exists <what>', 'what to do when the volume exists already')
        .choices(['error', 'ok'])
        .default('error'),
    );
  addQosOption(
    addPolicyNameOption(addPlacementOptions(addPolicyOptions(create))),
    'limits, guarantees and weight: iops=5000,bps=100MiB,burst=2x/30s,... (see below)',
  )
    .option('--shared', 'any node takes connections and relays them to the primary')
    .description('create a volume; returns when every replica is on its disk')
    .addHelpText(
      'after',
      qosHelp +
        '\n\nExamples:\n  storctl volume create db --size 20GiB --replicas 3\n  storctl volume create cache --size 512MiB --replicas 1 --label app=web --if-exists ok\n  storctl volume create wal --size 8GiB --failure-mode hard --on-loss error\n  storctl volume create archive --size 40TiB --segment-size 256GiB\n  storctl volume create ha --size 20GiB --require-spread zone --anti-affinity app=db:required --label app=db\n  storctl volume create web --size 20GiB --policy gold --qos iops=5000,bps=100MiB,burst=2x/30s',
    )
    .action(async (name: string, options: CreateOptions, command: Command) => {
      checkVolumeName(name);
      const sizeBytes = parseByteSize(options.size);
      if (sizeBytes <= 0) {
        throw new StorError('INVALID_ARGUMENT', 'size 0 is not valid: a volume has at least 4KiB');
      }
      const policy = readPolicy(options);
      const placement = readPlacement(options);
      const qos = readQos(options)?.set ?? {};
      const policyName = readPolicyName(options) ?? '';
      checkQos(qos);
      checkThreshold(policy, options.replicas);
      const request: CreateRequest = {
        name,
        sizeBytes,
        replicas: options.replicas ?? 0,
        labels: parseNewLabels(options.label ?? []),
        ...(options.segmentSize === undefined
          ? {}
          : { segmentBytes: parseByteSize(options.segmentSize) }),
        ...(Object.keys(policy).length === 0 ? {} : { policy }),
        ...(options.diskTag === undefined ? {} : { diskTag: options.diskTag }),
        ...(placement === null ? {} : { placement }),
        ...(options.on === undefined ? {} : { onNode: options.on }),
        ...(Object.keys(qos).length === 0 ? {} : { qos }),
        ...(policyName === '' ? {} : { policyName }),
      };
      await run(command.optsWithGlobals(), (context) =>
        createVolume(context, request, options.ifExists === 'ok'),
      );
    });
}

async function createVolume(
  { api, print, call }: CommandContext,
  request: CreateRequest,
  existingIsOk: boolean,
): Promise<void> {
  try {
    const created = await api.createVolume(request, call);
    print.changed(created, `volume ${created.metadata.name} created: ${describe(created)}`);
  } catch (error) {
    if (!existingIsOk || !hasCode(error, 'ALREADY_EXISTS')) throw error;
    const existing = await api.getVolume({ name: request.name }, call);
    checkSameSpec(existing, request);
    print.changed(
      existing,
      `volume ${existing.metadata.name} exists already: ${describe(existing)}`,
    );
  }
}

/** `--if-exists ok` must not hide that the existing volume is another one than was asked for. */
function checkSameSpec({ metadata, spec, status }: Volume, request: CreateRequest): void {
  const wantedBytes = Math.ceil(request.sizeBytes / blockBytes) * blockBytes;
  const { name } = metadata;
  const wanted = {
    replicas: request.replicas || spec.replicas,
    policy: { ...spec.policy, ...request.policy },
    placement: request.placement ?? spec.placement ?? {},
    qos: { ...spec.qos, ...request.qos },
    policyName: request.policyName ?? spec.policyName ?? '',
  };
  const { segmentBytes = spec.segmentBytes } = request;
  if (
    spec.sizeBytes !== wantedBytes ||
    spec.replicas !== wanted.replicas ||
    spec.segmentBytes !== segmentBytes
  ) {
    throw new StorError(
      'ALREADY_EXISTS',
      `volume ${name} exists already, but with another shape: ${describe({ spec, status })}; choose another name or the same size, replicas and segment size`,
    );
  }
  const changes = shapeChanges(spec, wanted).map((change) => change.join(' '));
  if (changes.length > 0) {
    throw new StorError(
      'ALREADY_EXISTS',
      `volume ${name} exists already, but with another policy (${changes.join(', ')}); "storctl volume update ${name}" changes it`,
    );
  }
}

function describe(volume: Pick<Volume, 'spec' | 'status'>): string {
  const { spec } = volume;
  const segments = bySegment(volume).length;
  const each = segments === 1 ? '' : ` of each of ${segments} segments`;
  const copies = spec.replicas === 1 ? '1 replica' : `${spec.replicas} replicas`;
  const size = formatByteSize(spec.sizeBytes);
  return `${size}, ${copies}${each} on ${nodesOf(volume) || 'no node yet'}`;
}

function addViews(volume: Command, run: RunAction): void {
  volume
    .command('ls')
    .alias('list')
    .option(watchFlag, watchText)
    .description('list the volumes')
    .addHelpText(
      'after',
      `${watchHelp}
Examples:
  storctl volume ls
  storctl volume ls -o name --no-headers
  storctl volume ls -w -o json`,
    )
    .action(async (options: { watch?: true }, command: Command) =>
      run(command.optsWithGlobals(), (context) => listVolumes(context, options.watch === true), {
        longRunning: options.watch === true,
      }),
    );
  volume
    .command('inspect')
    .argument('<volume>', 'name or id')
    .option(watchFlag, watchText)
    .description('show everything about a volume')
    .addHelpText(
      'after',
      `${watchHelp}
Examples:
  storctl volume inspect db
  storctl volume inspect db -o json
  storctl volume inspect db -w`,
    )
    .action(async (name: string, options: { watch?: true }, command: Command) =>
      run(
        command.optsWithGlobals(),
        async (context) => {
          const found = await context.api.getVolume({ name }, context.call);
          if (options.watch === true) await watchObjects(context, volumeView(found));
          else context.print.one(found, volumeSheet(found));
        },
        { longRunning: options.watch === true },
      ),
    );
}

async function listVolumes(context: CommandContext, isWatched: boolean): Promise<void> {
  if (isWatched) {
    await watchObjects(context, volumesView(context));
    return;
  }
  const { volumes } = await context.api.listVolumes({}, context.call);
  context.print.list(volumes, volumeColumns(context.nowMs));
}

function addRemove(volume: Command, run: RunAction): void {
  volume
    .command('rm')
    .alias('delete')
    .argument('<volume>', 'name or id')
    .option('--keep <time>', 'how long it stays in the trash, for example 7d; 0: not at all', '24h')
    .option('-y, --yes', 'do not ask')
    .description('delete a volume with its snapshots; for a while it can be brought back')
    .addHelpText(
      'after',
      `
A deleted volume goes to the trash: its name is free at once, its space is not. "storctl volume undelete"
brings it back, "storctl trash empty" deletes it for good.

Examples:
  storctl volume rm db
  storctl volume rm db --keep 7d
  storctl volume rm scratch --keep 0 -y`,
    )
    .action(async (name: string, options: { keep: string; yes?: true }, command: Command) => {
      const keepMs = parsePolicyTimeMs('--keep', options.keep, maxTrashKeepMs);
      await run(
        command.optsWithGlobals(),
        async (context) => {
          const { api, print, call } = context;
          // After the question the id is used: the name may have gone to another volume meanwhile.
          const target =
            options.yes === true ? name : await confirmVolumeRemoval(context, name, keepMs);
          const { keptUntilMs } = await api.deleteVolume({ name: target, keepMs }, call);
          const text =
            keptUntilMs === 0
              ? `volume ${name} deleted\n`
              : `volume ${name} deleted; until ${formatTime(keptUntilMs)} "storctl volume undelete ${name}" brings it back\n`;
          print.facts({ name, deleted: true, keptUntilMs }, text);
        },
        { longRunning: options.yes !== true },
      );
    });
}

/** Resolves with the id of the volume that the answer was about. */
async function confirmVolumeRemoval(
  { api, io, call }: CommandContext,
  name: string,
  keepMs: number,
): Promise<string> {
  if (!io.isTty || io.ask === undefined) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `deleting volume ${name} takes its data away and there is no terminal to ask on: give -y to confirm`,
    );
  }
  const found = await api.getVolume({ name }, call);
  const used = usedSpace(found);
  const { snapshots } = found.status;
  const count = snapshots === 1 ? '1 snapshot' : `${snapshots} snapshots`;
  const itself = snapshots === 0 ? 'Its data' : `Its data and its ${count}`;
  const fate =
    keepMs === 0
      ? `${itself} ${snapshots === 0 ? 'is' : 'are'} lost.`
      : `${itself} can be brought back for ${formatWait(keepMs)}.`;
  const answer = await io.ask(
    `Delete volume ${found.metadata.name} (${describe(found)}${used === '' ? '' : `, ${used} used`})? ${fate} [y/N] `,
  );
  if (/^y(es)?$/i.test(answer.trim())) return found.metadata.id;
  throw new StorError('ABORTED', `volume ${name} was not deleted`);
}

function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}
