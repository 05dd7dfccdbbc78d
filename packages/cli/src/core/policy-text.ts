import { knownQos, membersNeeded } from '@stor/protocol';
import type { FailureMode, PlacementRules, QosSpec, Volume, VolumePolicy } from '@stor/protocol';
import { formatWait } from './duration.ts';
import { placementChanges } from './placement-text.ts';
import { qosChanges } from './qos-text.ts';
import { leastReplicas } from './segment-view.ts';

/** The shape of a volume that an operator chooses and may change while it is in use. */
export interface VolumeShape {
  replicas: number;
  policy: VolumePolicy;
  placement?: PlacementRules;
  qos?: QosSpec;
  policyName?: string;
}

/** `soft: 2 of 3 must be in sync` */
export function failureModeText(mode: FailureMode, replicas: number): string {
  const needed = membersNeeded(mode, replicas);
  const what = needed === replicas ? `all ${replicas}` : `${needed} of ${replicas}`;
  return `${mode}: ${replicas === 1 ? 'the one replica' : what} must be in sync`;
}

export function ioTimeoutText(ioTimeoutMs: number): string {
  return ioTimeoutMs === 0 ? 'none' : formatWait(ioTimeoutMs);
}

const yesNo = (value: boolean) => (value ? 'yes' : 'no');

/** One line for each thing that differs: `replicas  2 -> 3`. */
export function shapeChanges(before: VolumeShape, after: VolumeShape): [string, string][] {
  const lines: [string, string, string][] = [
    ['replicas', String(before.replicas), String(after.replicas)],
    ['failure mode', before.policy.failureMode, after.policy.failureMode],
    ['on loss', before.policy.onLoss, after.policy.onLoss],
    [
      'I/O timeout',
      ioTimeoutText(before.policy.ioTimeoutMs),
      ioTimeoutText(after.policy.ioTimeoutMs),
    ],
    [
      'replacement wait',
      formatWait(before.policy.replacementWaitMs),
      formatWait(after.policy.replacementWaitMs),
    ],
    ['unflushed loss', before.policy.unflushedLoss, after.policy.unflushedLoss],
    ['rebuild paused', yesNo(before.policy.rebuildPaused), yesNo(after.policy.rebuildPaused)],
    ['shared', yesNo(before.policy.shared), yesNo(after.policy.shared)],
    ...placementChanges(before.placement ?? {}, after.placement ?? {}),
    ['policy', before.policyName || 'none', after.policyName || 'none'],
    ...qosChanges(knownQos(before.qos), knownQos(after.qos)),
  ];
  return lines
    .filter(([, from, to]) => from !== to)
    .map(([name, from, to]) => [name, `${from} -> ${to}`]);
}

/** How many replicas take part in acknowledgements and are to stay. */
export function stayingInSync(volume: Volume): number {
  return leastReplicas(volume, ({ state, leaving }) => state === 'in-sync' && !leaving);
}

/**
 * What is unsafe about giving a volume another shape, one sentence each; empty when nothing is.
 * These are refused without `--yes`: they are easily typed and cost data or availability.
 */
export function shapeRisks(volume: Volume, after: VolumeShape): string[] {
  const before: VolumeShape = volume.spec;
  const risks: string[] = [];
  if (after.replicas === 1 && before.replicas > 1) {
    risks.push('with 1 replica the loss of its disk is the loss of the volume');
  }
  const threshold = /^threshold=([0-9]+)$/.exec(after.policy.failureMode)?.[1];
  if (threshold !== undefined && Number(threshold) > after.replicas && after.replicas > 1) {
    risks.push(
      `threshold=${threshold} is more than ${after.replicas} replicas, so all of them are needed: the loss of any one ${holdsOrFails(after.policy)}`,
    );
  }
  const needed = membersNeeded(after.policy.failureMode, after.replicas);
  const neededBefore = membersNeeded(before.policy.failureMode, before.replicas);
  // What is missing is missing anyway when the same number was needed before.
  const inSync = Math.min(stayingInSync(volume), after.replicas);
  if (needed > neededBefore && inSync < needed) {
    const until = after.replicas > before.replicas ? 'until the new ones are filled' : 'at once';
    risks.push(
      `${after.policy.failureMode} would need ${needed} replicas in sync and ${inSync} ${inSync === 1 ? 'is' : 'are'}: the volume ${holdsOrFails(after.policy)} ${until}`,
    );
  }
  return risks;
}

function holdsOrFails({ onLoss }: VolumePolicy): string {
  return onLoss === 'error' ? 'answers writes with errors' : 'holds writes';
}
