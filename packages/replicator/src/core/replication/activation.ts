import { compareGenerations, type Generation, type SetView } from '../../replica-store.ts';

/** What one member of the recorded in-sync set has answered to the fence so far. */
export interface FenceAnswer {
  replicaId: string;
  /** it has not lost writes that were not flushed, and it has not failed */
  keptMemory: boolean;
  failed: boolean;
  generation: Generation;
  setView: SetView | null;
  /** epoch of the primary that left it, in order, as one of equals; null when that is not known */
  drainedEpoch: number | null;
  isLocal: boolean;
}

export interface RecordedSet {
  setRevision: number;
  inSync: readonly string[];
  /** each of these has every acknowledged write: the change to `inSync` is not confirmed */
  unconfirmed?: readonly string[];
}

export type ActivationDecision =
  | { type: 'wait'; reason: string }
  | {
      type: 'go';
      /** the set to judge and shrink from */
      from: RecordedSet;
      /** the highest set revision that the control plane or any replica knows: the next is above it */
      highestRevision: number;
      members: string[];
      /** `from` is newer than what the control plane keeps, so it must be told */
      controlIsOlder: boolean;
      /** `from` is the set that the control plane has recorded */
      isRecorded: boolean;
      /**
       * nobody kept its memory: what was not flushed may be gone. Of these replicas nothing was
       * heard; null when somebody kept it.
       */
      unheard: string[] | null;
      /** the members are known to be equal: nothing is to be settled */
      equal: boolean;
    };

export interface ActivationRules {
  /** of the primary that begins */
  epoch: number;
  /** all that the control plane has of the segment, in the set or not */
  replicas: readonly string[];
  /** those that do not answer have had their moment */
  graceOver: boolean;
  /** ... and the longer one that they get when the control plane is known to have gone back in time */
  restoreGraceOver: boolean;
  /** recorded as failed for good: they will never answer */
  knownFailed: readonly string[];
  /** somebody agreed to lose what was not flushed and only a replica that is not heard may have */
  lossAccepted: boolean;
  /** a replica for people: where it is and why it does not answer */
  describe: (replicaId: string) => string;
  /** what an operator can do to begin without those that are not heard */
  recoverCommand: string;
}

/**
 * The set that decides: the control plane's, unless a replica served under a newer one (the control
 * plane was restored from a backup): then the newest one any replica remembers. Of two that replicas
 * remember the one of the later epoch is newer, whatever its revision: after a restore that not all
 * replicas have seen, revisions may have gone on from a lower one.
 */
function decidingSet(recorded: RecordedSet, answers: readonly FenceAnswer[]): RecordedSet {
  let newest: SetView | null = null;
  for (const { setView } of answers) {
    if (setView && (!newest || isLater(setView, newest))) newest = setView;
  }
  if (!newest || newest.setRevision <= recorded.setRevision) return recorded;
  return { setRevision: newest.setRevision, inSync: newest.members };
}

function isLater(a: SetView, b: SetView): boolean {
  return a.epoch === b.epoch ? a.setRevision > b.setRevision : a.epoch > b.epoch;
}

/**
 * What a new primary begins with, when all that the control plane has of the segment have answered, or
 * had their moment. Those outside the set count for nothing (I3), but for what they remember: the
 * control plane may have gone back in time, and one of them may have served under a newer set. A replica
 * that answers first and was alone in an older set would be taken for all there is.
 */
export function decideActivation(
  recorded: RecordedSet,
  answers: readonly FenceAnswer[],
  rules: ActivationRules,
): ActivationDecision {
  const decision = judgeMembers(recorded, answers, rules);
  if (decision.type === 'wait') return decision;
  const silent = rules.replicas.filter(
    (id) => !answers.some((a) => a.replicaId === id) && !rules.knownFailed.includes(id),
  );
  const isOver = decision.controlIsOlder ? rules.restoreGraceOver : rules.graceOver;
  if (silent.length === 0 || isOver) return decision;
  if (decision.equal && wasHandedOver(decision.members, answers, rules.epoch)) return decision;
  return {
    type: 'wait',
    reason: `giving ${silent.map(rules.describe).join(', ')} a moment to say which set is the newest`,
  };
}

/**
 * The primary of the epoch just before left all of them in order: nobody can have served since, and it
 * had the set from the control plane as it is now, for a restore raises epochs.
 */
function wasHandedOver(
  members: readonly string[],
  answers: readonly FenceAnswer[],
  epoch: number,
): boolean {
  return answers
    .filter(({ replicaId }) => members.includes(replicaId))
    .every(({ drainedEpoch }) => drainedEpoch === epoch - 1);
}

/**
 * Which members a new primary begins with (DESIGN "Settle"). Every member of the set has every
 * acknowledged write, unless it lost its memory. So those that kept it are the set. When none kept
 * it, all must answer, and one of them becomes the truth: the one with the highest generation. Those
 * that are not heard may be left out only by consent: one of them may have kept its memory.
 */
function judgeMembers(
  recorded: RecordedSet,
  answers: readonly FenceAnswer[],
  rules: ActivationRules,
): ActivationDecision {
  const newest = decidingSet(recorded, answers);
  const controlIsOlder = newest !== recorded;
  const { unconfirmed } = newest;
  const from = unconfirmed ? { ...newest, inSync: unconfirmed } : newest;
  const isRecorded = from === recorded;
  const remembered = answers.map(({ setView }) => setView?.setRevision ?? 0);
  const highestRevision = Math.max(recorded.setRevision, ...remembered);
  const begin = { type: 'go', from, highestRevision, controlIsOlder, isRecorded } as const;
  const members = answers.filter((answer) => from.inSync.includes(answer.replicaId));
  const whole = members.filter((answer) => !answer.failed);
  const kept = whole.filter((answer) => answer.keptMemory);
  const unheard = from.inSync.filter(
    (id) => !members.some((a) => a.replicaId === id) && !rules.knownFailed.includes(id),
  );
  if (kept.length > 0) {
    if (unheard.length > 0 && !rules.graceOver) {
      return {
        type: 'wait',
        reason: `giving ${unheard.map(rules.describe).join(', ')} a moment to answer`,
      };
    }
    const ids = kept.map((answer) => answer.replicaId);
    const equal = isRecorded && areEqual(from.inSync, kept);
    return { ...begin, members: ids, unheard: null, equal };
  }
  const missing = unheard.map(rules.describe).join(', ');
  if (unheard.length > 0 && whole.length === 0) {
    return { type: 'wait', reason: `no in-sync replica can be reached: waiting for ${missing}` };
  }
  if (unheard.length > 0 && !rules.lossAccepted) {
    const reached = whole.map((answer) => answer.replicaId).join(', ');
    return {
      type: 'wait',
      reason:
        `${reached} may have lost writes that were not flushed, so it needs ${missing}; ` +
        `${rules.recoverCommand} begins without and gives such writes up`,
    };
  }
  const truth = bestOf(whole);
  if (!truth) return { type: 'wait', reason: 'every in-sync replica has failed' };
  const ids = [truth.replicaId];
  return { ...begin, members: ids, unheard, equal: false };
}

/**
 * One primary left every member of the recorded set in order, nobody has opened any of them since,
 * and each still has its memory: what one reads the others read.
 */
function areEqual(inSync: readonly string[], kept: readonly FenceAnswer[]): boolean {
  const [first] = kept;
  if (!first || first.drainedEpoch === null || kept.length !== inSync.length) return false;
  return kept.every((answer) => answer.drainedEpoch === first.drainedEpoch);
}

/** The one with the highest generation; the local one among equals. */
function bestOf(answers: readonly FenceAnswer[]): FenceAnswer | undefined {
  const sorted = [...answers].sort(
    (a, b) =>
      compareGenerations(b.generation, a.generation) || Number(b.isLocal) - Number(a.isLocal),
  );
  return sorted[0];
}
