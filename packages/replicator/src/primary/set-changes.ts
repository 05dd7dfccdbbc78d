import { StorError, hasCode } from '@stor/protocol';

import type { MembershipStep } from '../core/replication/membership.ts';
import { proposeRetryMaxMs, proposeRetryMinMs, proposeTimeoutMs } from '../replication/limits.ts';
import type { ReplicatorControl } from '../replicator-ports.ts';
import type { Segment } from './segment.ts';

type Answer = Awaited<ReturnType<ReplicatorControl['proposeSet']>>;
type Proposal = Omit<
  Parameters<ReplicatorControl['proposeSet']>[0],
  'volumeId' | 'segment' | 'epoch'
>;

/** Proposes until the outcome is known, or nothing was sent and it is not wanted any more (I4). */
export function proposeChange(segment: Segment, step: MembershipStep & { type: 'propose' }): void {
  const { clock, logger } = segment.options;
  const { setRevision, rememberedRevision, inSync } = step;
  let mayHaveArrived = false;
  let delayMs = proposeRetryMinMs;
  const failed = (error: unknown): void => {
    if (segment.stopped || !segment.membership) return;
    // anything but "nothing was sent" may have taken effect: the union stays in force (I4)
    if (!hasCode(error, 'UNAVAILABLE')) mayHaveArrived = true;
    const { code, message } = StorError.from(error);
    logger.debug({ inSync, setRevision, code, reason: message }, 'a set change has no answer yet');
    // Refused because the record does not know a replica of the set any more (it was removed while
    // it was outside the set): no earlier try took effect, or it would be in the set, and none will.
    if (hasCode(error, 'INVALID_ARGUMENT')) mayHaveArrived = false;
    if (!mayHaveArrived && segment.membership.withdraw()) {
      segment.changed();
      return;
    }
    clock.after(delayMs, again);
    delayMs = Math.min(delayMs * 2, proposeRetryMaxMs);
  };
  const again = (): void => {
    if (segment.stopped) return;
    logger.debug({ inSync, setRevision }, 'a change of the in-sync set is proposed');
    ask(segment, { setRevision, rememberedRevision, inSync }, answered, failed);
  };
  const answered = (answer: Answer): void => {
    if (segment.stopped || !segment.membership) return;
    if (answer.outcome === 'superseded') {
      segment.superseded(new StorError('STALE_EPOCH', answer.reason));
      return;
    }
    logger.info({ inSync, setRevision: answer.setRevision }, 'the in-sync set changed');
    segment.membership.proposalCommitted(answer.setRevision, answer.unconfirmed === true);
    for (const member of [...segment.joining]) {
      if (inSync.includes(member.replicaId)) segment.joining.delete(member);
    }
    segment.changed();
  };
  again();
}

/** Until the control plane knows it, nothing is acknowledged under the set alone. */
export function confirmSet(
  segment: Segment,
  { setRevision, inSync }: MembershipStep & { type: 'confirm' },
): void {
  const { clock, logger } = segment.options;
  let delayMs = proposeRetryMinMs;
  const isOver = (): boolean =>
    segment.stopped || segment.membership?.isConfirming(setRevision) !== true;
  const again = (): void => {
    if (!isOver()) ask(segment, { setRevision, inSync, confirms: true }, answered, failed);
  };
  const failed = (error: unknown): void => {
    if (isOver()) return;
    const { code, message } = StorError.from(error);
    logger.debug({ inSync, setRevision, code, reason: message }, 'a set is not confirmed yet');
    clock.after(delayMs, again);
    delayMs = Math.min(delayMs * 2, proposeRetryMaxMs);
  };
  const answered = (answer: Answer): void => {
    // it may have been taken back meanwhile: then what became of it says nothing
    if (isOver()) return;
    if (answer.outcome === 'superseded') {
      segment.superseded(new StorError('STALE_EPOCH', answer.reason));
      return;
    }
    segment.membership?.confirmed(setRevision);
    segment.changed();
  };
  again();
}

/** Asks once: one of the two is called, once. OUTCOME_UNKNOWN when no answer comes in time. */
function ask(
  { options }: Segment,
  proposal: Proposal,
  answered: (answer: Answer) => void,
  failed: (error: unknown) => void,
): void {
  const { clock, control, volumeId, index, epoch } = options;
  let open = true;
  const cancel = clock.after(proposeTimeoutMs, () => {
    open = false;
    failed(new StorError('OUTCOME_UNKNOWN', 'the control plane does not answer'));
  });
  const once = <T>(then: (value: T) => void) => {
    return (value: T): void => {
      if (!open) return;
      open = false;
      cancel();
      then(value);
    };
  };
  control
    .proposeSet({ volumeId, segment: index, epoch, ...proposal })
    .then(once(answered), once(failed));
}
