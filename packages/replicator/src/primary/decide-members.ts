import type { AttachmentGrant } from '@stor/protocol';

import {
  decideActivation,
  type ActivationDecision,
  type FenceAnswer,
} from '../core/replication/activation.ts';
import { activationGraceMs, restoreGraceMs, unflushedLossGraceMs } from '../replication/limits.ts';
import type { Segment } from './segment.ts';

/**
 * Fences all replicas and waits until those that answered can decide; never resolves when the primary
 * ends before. `onWaiting` hears what for.
 */
export function decideMembers(
  segment: Segment,
  grant: AttachmentGrant,
  onWaiting: (reason: string) => void,
): Promise<Extract<ActivationDecision, { type: 'go' }>> {
  const { clock } = segment.options;
  const recorded = grant.segments[0] ?? { setRevision: 0, inSync: [] };
  const beganMs = clock.monotonicMs();
  return new Promise((resolve) => {
    const look = (): void => {
      if (segment.stopped) return;
      const sinceMs = clock.monotonicMs() - beganMs;
      const byPolicy = segment.policy.unflushedLoss === 'accept';
      const decision = decideActivation(recorded, answersOf(segment), {
        epoch: segment.options.epoch,
        replicas: segment.members.map(({ replicaId }) => replicaId),
        graceOver: sinceMs >= activationGraceMs,
        restoreGraceOver: sinceMs >= restoreGraceMs,
        knownFailed: segment.knownFailed,
        lossAccepted:
          (grant.acceptUnflushedLoss && sinceMs >= activationGraceMs) ||
          (byPolicy && sinceMs >= unflushedLossGraceMs),
        describe: (replicaId) => segment.describe(replicaId),
        recoverCommand: `\`storctl volume recover ${grant.name} --accept-unflushed-loss\``,
      });
      if (decision.type === 'wait') {
        onWaiting(decision.reason);
        return;
      }
      for (const cancel of cancels) cancel();
      segment.onAnswer = () => {};
      resolve(decision);
    };
    const graces = [activationGraceMs, restoreGraceMs, unflushedLossGraceMs];
    const cancels = graces.map((ms) => clock.after(ms, look));
    segment.onAnswer = look;
    segment.start();
  });
}

function answersOf(segment: Segment): FenceAnswer[] {
  const answers: FenceAnswer[] = [];
  for (const member of segment.members) {
    const { answer } = member;
    if (!member.isOpen || !answer) continue;
    answers.push({
      replicaId: member.replicaId,
      keptMemory: answer.keptMemory,
      failed: answer.failure !== null,
      generation: answer.generation,
      setView: answer.setView,
      drainedEpoch: answer.drainedEpoch,
      isLocal: member.isLocal,
    });
  }
  return answers;
}
