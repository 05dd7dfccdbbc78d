import type { Sample } from '../../measure/rounds.ts';
import { ratioOf, type Ratio } from '../../measure/ratios.ts';
import { workloadById } from '../../measure/workloads.ts';
import { recordedRatio, type RecordedPeer } from './recorded.ts';
import { isMoreBetter, type Target } from './targets.ts';

/** How one promise was kept. */
export interface Verdict {
  target: Target;
  /** the peer that counts: of those that were measured, the best at this */
  peer: string;
  ratio: Ratio;
  isMet: boolean;
  isAimMet: boolean;
  /** every peer that was compared, the best first, with the ratio to it */
  all: { peer: string; ratio: number }[];
  /** peers without a sample */
  missing: string[];
}

interface Compared {
  peer: string;
  ratio: Ratio;
}

/**
 * Compares a promise with the samples. Null when nothing was measured for it. The peer that counts is
 * the one that leaves Stor the worst ratio, so a promise against "each" holds against every one.
 */
export function judge(
  target: Target,
  samples: readonly Sample[],
  recorded: readonly RecordedPeer[],
): Verdict | null {
  const isAtLeast = isMoreBetter(target.figure);
  const compared = target.peers
    .flatMap((peer) => compare(target, peer, samples, recorded) ?? [])
    .sort((a, b) => (a.ratio.ofMedians - b.ratio.ofMedians) * (isAtLeast ? 1 : -1));
  const [worst] = compared;
  if (!worst) return null;
  const { ofMedians } = worst.ratio;
  const meets = (limit: number): boolean => (isAtLeast ? ofMedians >= limit : ofMedians <= limit);
  return {
    target,
    peer: worst.peer,
    ratio: worst.ratio,
    isMet: meets(target.must),
    isAimMet: meets(target.aim ?? target.must),
    all: compared.map(({ peer, ratio }) => ({ peer, ratio: ratio.ofMedians })),
    missing: target.peers.filter((peer) => !compared.some((other) => other.peer === peer)),
  };
}

function compare(
  target: Target,
  peer: string,
  samples: readonly Sample[],
  recorded: readonly RecordedPeer[],
): Compared | null {
  const { figure } = target;
  const { name: workload } = workloadById(target.workload);
  const ours = { server: target.ours, workload };
  const record = recorded.find(({ name }) => name === peer);
  if (!record) {
    const id = target.workloadOf?.[peer];
    const theirs = { server: peer, workload: id === undefined ? workload : workloadById(id).name };
    const ratio = ratioOf(samples, ours, theirs, figure);
    return ratio && { peer, ratio };
  }
  const yardstick = { server: record.beside, workload };
  const beside = ratioOf(samples, ours, yardstick, figure);
  const cpuUs = ratioOf(samples, ours, yardstick, 'cpuUsPerIo')?.theirs;
  if (!beside || cpuUs === undefined) return null;
  const factor = recordedRatio(record, target.workload, figure, cpuUs);
  if (factor === null) return null;
  const { min, median: middle, max } = beside.perRound;
  return {
    peer,
    ratio: {
      ours: beside.ours,
      theirs: beside.theirs * factor,
      ofMedians: beside.ofMedians / factor,
      perRound: { min: min / factor, median: middle / factor, max: max / factor },
      rounds: beside.rounds,
    },
  };
}
