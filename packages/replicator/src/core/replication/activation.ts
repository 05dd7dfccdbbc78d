import { compareGenerations, type Generation, type SetView } from '../../replica-store.ts';

/** What one member of the recorded in-sync set has answered to the fence so far. */
export interface FenceAnswer {
  replicaId: string;
  /** it has not lost writes that were not flushed, and it has not failed */
  keptMemory: boolean;
  failed: boolean;
  generation: Generation;
  setView: SetView | null;
  isLocal: boolean;
}

export interface RecordedSet {
  setRevision: number;
  inSync: readonly string[];
}

export type ActivationDecision =
  | { type: 'wait'; reason: string }
  | {
      type: 'go';
      /** the set to judge and shrink from */
      from: RecordedSet;
      members: string[];
      /** `from` is newer than what the control plane keeps, so it must be told */
      controlIsOlder: boolean;
    };

/**
 * The set that decides: the control plane's, unless a replica served under a newer one (the control
 * plane was restored from a backup): then the newest one any replica remembers.
 */
export function decidingSet(recorded: RecordedSet, answers: readonly FenceAnswer[]): RecordedSet {
  let newest = recorded;
  for (const { setView } of answers) {
    if (setView && setView.setRevision > newest.setRevision) {
      newest = { setRevision: setView.setRevision, inSync: setView.members };
    }
  }
  return newest;
}

/**
 * Which members a new primary begins with (DESIGN "Settle"). Every member of the set has every
 * acknowledged write, unless it lost its memory. So those that kept it are the set. When none kept
 * it, all must answer, and one of them becomes the truth: the one with the highest generation.
 */
export function decideActivation(
  recorded: RecordedSet,
  answers: readonly FenceAnswer[],
  graceOver: boolean,
): ActivationDecision {
  const from = decidingSet(recorded, answers);
  const controlIsOlder = from !== recorded;
  const members = answers.filter((answer) => from.inSync.includes(answer.replicaId));
  const kept = members.filter((answer) => answer.keptMemory && !answer.failed);
  const allAnswered = members.length === from.inSync.length;
  if (kept.length > 0) {
    if (!allAnswered && !graceOver) {
      return { type: 'wait', reason: 'the other in-sync replicas have a moment to answer' };
    }
    return { type: 'go', from, members: kept.map((a) => a.replicaId), controlIsOlder };
  }
  if (!allAnswered) {
    const missing = from.inSync.filter((id) => !members.some((a) => a.replicaId === id));
    return {
      type: 'wait',
      reason:
        members.length === 0
          ? `no in-sync replica can be reached (${missing.join(', ')})`
          : `no reached in-sync replica kept its memory; waiting for ${missing.join(', ')}`,
    };
  }
  const whole = members.filter((answer) => !answer.failed);
  whole.sort(
    (a, b) =>
      compareGenerations(b.generation, a.generation) || Number(b.isLocal) - Number(a.isLocal),
  );
  const truth = whole[0];
  if (!truth) return { type: 'wait', reason: 'every in-sync replica has failed' };
  return { type: 'go', from, members: [truth.replicaId], controlIsOlder };
}
