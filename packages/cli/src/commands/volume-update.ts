import type { Command } from 'commander';
import { StorError, changedQos, changePolicy, knownQos, membersNeeded } from '@stor/protocol';
import type { Volume, VolumePolicy } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { confirmUnsafe } from '../confirm.ts';
import {
  failureModeText,
  shapeChanges,
  shapeRisks,
  stayingInSync,
  type VolumeShape,
} from '../core/policy-text.ts';
import { renderSheet } from '../core/table.ts';
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
import { waitForVolume } from '../wait-for-volume.ts';
import { bySegment, nodesOf } from '../core/segment-view.ts';

interface UpdateOptions extends PolicyOptions, PlacementOptions, QosOptions, PolicyNameOptions {
  replicas?: number;
  wait: boolean;
  yes?: true;
}

export function addUpdateCommand(volume: Command, run: RunAction): void {
  const update = volume
    .command('update')
    .argument('<volume>', 'name or id')
    .option('--replicas <count>', 'copies on different nodes, 1 to 5', parseReplicas);
  addQosOption(
    addPolicyNameOption(addPlacementOptions(addPolicyOptions(update))),
    'limits, guarantees and weight, changed at once: iops=5000,bps=none,... or none (see below)',
  )
    .option('--shared', 'any node takes connections and relays them to the primary')
    .option('--no-shared', 'a node that is not the primary refuses connections')
    .option('--no-wait', 'return at once instead of when the replicas are in sync')
    .option('-y, --yes', 'do it even when it is not safe')
    .description('change the replicas and the policy of a volume while it is in use')
    .addHelpText(
      'after',
      `
More replicas are placed and filled; fewer leave when enough others are in sync. The volume is served
meanwhile. Replicas that lie where the rules forbid it move by themselves. What costs redundancy or would hold I/O at once is refused (exit 11) without --yes.
${qosHelp}

Examples:
  storctl volume update db --replicas 3
  storctl volume update db --failure-mode hard --on-loss error
  storctl volume update db --replacement-wait 1h --no-wait
  storctl volume update db --require-spread zone --spread-over zone,rack
  storctl volume update db --qos iops=8000,min-iops=none
  storctl volume update db --policy silver --qos none`,
    )
    .action(async (name: string, options: UpdateOptions, command: Command) => {
      const policy = readPolicy(options);
      const replicas = options.replicas;
      const isPlaced = readPlacement(options) !== null;
      const policyName = readPolicyName(options);
      const isSaid = isPlaced || readQos(options) !== null || policyName !== undefined;
      if (replicas === undefined && Object.keys(policy).length === 0 && !isSaid) {
        throw new StorError(
          'INVALID_ARGUMENT',
          'nothing to change was given; "storctl volume update --help" shows what is possible',
        );
      }
      const request = {
        ...(replicas === undefined ? {} : { replicas }),
        policy,
        ...(policyName === undefined ? {} : { policyName }),
      };
      await run(
        command.optsWithGlobals(),
        (context) => updateVolume(context, name, request, options),
        { longRunning: options.wait || options.yes !== true },
      );
    });
}

async function updateVolume(
  context: CommandContext,
  name: string,
  request: { replicas?: number; policy: Partial<VolumePolicy>; policyName?: string },
  options: UpdateOptions,
): Promise<void> {
  const { api, io, print, call } = context;
  const before = await api.getVolume({ name }, call);
  const placement = readPlacement(options, before.spec.placement);
  const qos = readQos(options);
  // before anything is asked
  if (qos) changedQos(knownQos(before.spec.qos), qos.set, qos.clear);
  const after: VolumeShape = {
    replicas: request.replicas ?? before.spec.replicas,
    policy: changePolicy(before.spec.policy, request.policy),
  };
  const risks = shapeRisks(before, after);
  if (risks.length > 0) {
    await confirmUnsafe(io, options.yes === true, {
      action: `Change volume ${before.metadata.name}`,
      risks,
      left: `volume ${before.metadata.name} was not changed`,
    });
  }
  // by its id: the name may have gone to another volume since it was looked at
  const updated = await api.updateVolume(
    {
      name: before.metadata.id,
      ...request,
      ...(placement === null ? {} : { placement }),
      ...(qos === null ? {} : { qos: qos.set, clearQos: qos.clear }),
    },
    call,
  );
  const waits = options.wait && request.replicas !== undefined;
  if (!waits || print.forPeople) print.changed(updated, changeText(before, updated));
  if (!waits) return;
  const done = await waitForVolume(context, updated, hasItsReplicas);
  print.changed(
    done,
    `volume ${done.metadata.name} has ${replicasText(done.spec.replicas)} in sync, on ${nodesOf(done)}`,
  );
}

function hasItsReplicas(volume: Volume): boolean {
  return bySegment(volume).every(
    (replicas) =>
      replicas.length === volume.spec.replicas &&
      replicas.every(({ state, leaving }) => state === 'in-sync' && !leaving),
  );
}

/** What changed and what happens next. */
function changeText(before: Volume, updated: Volume): string {
  const { name } = updated.metadata;
  const changes = shapeChanges(before.spec, updated.spec);
  if (changes.length === 0) return `volume ${name} is like that already: nothing was changed`;
  const sheet = renderSheet(changes)
    .trimEnd()
    .split('\n')
    .map((line) => `  ${line}`);
  return [`volume ${name} changed`, ...sheet, ...nextSteps(before, updated)].join('\n');
}

function nextSteps(before: Volume, updated: Volume): string[] {
  const { replicas, policy } = updated.spec;
  const steps: string[] = [];
  const more = replicas - before.spec.replicas;
  if (more > 0) {
    const are = more === 1 ? 'is' : 'are';
    steps.push(
      `next: ${replicasText(more)} ${are} placed and filled; the volume is served meanwhile`,
    );
  } else if (more < 0) {
    steps.push(
      `next: ${-more} of ${before.spec.replicas} replicas ${more === -1 ? 'leaves' : 'leave'} as soon as ${replicas} that ${replicas === 1 ? 'stays is' : 'stay are'} in sync`,
    );
  }
  if (policy.failureMode !== before.spec.policy.failureMode || more !== 0) {
    const needed = membersNeeded(policy.failureMode, replicas);
    steps.push(
      `writes: ${failureModeText(policy.failureMode, replicas)} (now ${stayingInSync(updated)})${
        stayingInSync(updated) < needed ? `; until then I/O ${heldText(policy)}` : ''
      }`,
    );
  }
  return steps;
}

function heldText(policy: VolumePolicy): string {
  return policy.onLoss === 'suspend' ? 'is held' : 'gets errors';
}

function replicasText(count: number): string {
  return count === 1 ? '1 replica' : `${count} replicas`;
}
