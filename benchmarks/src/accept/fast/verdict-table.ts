import { ratioOf } from '../../measure/ratios.ts';
import type { Sample } from '../../measure/rounds.ts';
import { median } from '../../measure/statistics.ts';
import { workloadById } from '../../measure/workloads.ts';
import { coldHotWorkloads } from './cold-hot.ts';
import { judge } from './judge.ts';
import type { RecordedPeer } from './recorded.ts';
import { targets, type Group } from './targets.ts';

/** One promise in words. */
export interface VerdictLine {
  group: Group | 'cold-hot';
  name: string;
  value: string;
  must: string;
  /** what we are after */
  aim: string;
  detail: string;
  isMet: boolean;
  isAimMet: boolean;
}

/** p99.9 of 4 KiB writes at QD 32 may be at most this many times their median */
const mostTail = 10;
/** share of its IOPS alone that a hot volume keeps beside a cold one, and its p99 there (us) */
const leastHotShare = 0.4;
const mostHotP99Us = 1_000;

/** A line for each promise that something was measured for, in the order of the table of targets. */
export function verdictLines(
  samples: readonly Sample[],
  recorded: readonly RecordedPeer[],
): VerdictLine[] {
  return [...ratioLines(samples, recorded), ...tailLines(samples), ...coldHotLines(samples)];
}

function ratioLines(samples: readonly Sample[], recorded: readonly RecordedPeer[]): VerdictLine[] {
  return targets.flatMap((target) => {
    const verdict = judge(target, samples, recorded);
    if (!verdict) return [];
    const { ratio, peer, all, missing } = verdict;
    const isCpu = target.figure === 'cpuUsPerIo';
    const sign = isCpu ? '≤' : '≥';
    const { min, median: middle, max } = ratio.perRound;
    const others = all.slice(1).map((other) => `${other.peer} ${other.ratio.toFixed(2)}×`);
    const amount = (value: number): string => (isCpu ? `${value.toFixed(1)} us` : value.toFixed(0));
    return {
      group: target.group,
      name: `${target.ours} / ${target.beside}: ${workloadById(target.workload).name}${isCpu ? ', CPU per I/O' : ''}`,
      value: `${ratio.ofMedians.toFixed(2)}×`,
      must: `${sign} ${target.must}×`,
      aim: target.aim === null ? '' : `${sign} ${target.aim}×`,
      detail: [
        `rounds ${min.toFixed(2)}–${middle.toFixed(2)}–${max.toFixed(2)} (${ratio.rounds})`,
        `${amount(ratio.ours)} / ${amount(ratio.theirs)} ${peer}`,
        ...(others.length > 0 ? [others.join(', ')] : []),
        ...(missing.length > 0 ? [`not measured: ${missing.join(', ')}`] : []),
      ].join('; '),
      isMet: verdict.isMet,
      isAimMet: verdict.isAimMet,
    };
  });
}

function tailLines(samples: readonly Sample[]): VerdictLine[] {
  const { name: workload } = workloadById('write-qd32');
  return ['stor-1', 'stor-1-qos', 'stor-3', 'stor-3-qos'].flatMap((server) => {
    const mine = samples.filter((s) => s.server === server && s.workload === workload);
    if (mine.length === 0) return [];
    const tail = median(mine.map((s) => s.p999Us / s.p50Us));
    const times = (pick: (s: Sample) => number): string => median(mine.map(pick)).toFixed(0);
    const isMet = tail < mostTail;
    return {
      group: 'latency' as const,
      name: `${server}: p99.9 of ${workload}, of its median`,
      value: `${tail.toFixed(1)}×`,
      must: `< ${mostTail}×`,
      aim: '',
      detail: `p50 ${times((s) => s.p50Us)} us, p99 ${times((s) => s.p99Us)} us, p99.9 ${times((s) => s.p999Us)} us (${mine.length} rounds)`,
      ...{ isMet, isAimMet: isMet },
    };
  });
}

function coldHotLines(samples: readonly Sample[]): VerdictLine[] {
  const server = 'stor-1';
  const ratio = ratioOf(
    samples,
    { server, workload: coldHotWorkloads.beside },
    { server, workload: coldHotWorkloads.alone },
    'iops',
  );
  if (!ratio) return [];
  const medianOf = (workload: string, pick: (s: Sample) => number): number =>
    median(samples.filter((s) => s.workload === workload).map(pick));
  const p99Us = medianOf(coldHotWorkloads.beside, (s) => s.p99Us);
  const { min, median: middle, max } = ratio.perRound;
  const iops = (workload: string): string => medianOf(workload, (s) => s.iops).toFixed(0);
  const line = (parts: Pick<VerdictLine, 'name' | 'value' | 'must' | 'detail' | 'isMet'>) => ({
    ...{ group: 'cold-hot' as const, aim: '', ...parts, isAimMet: parts.isMet },
  });
  return [
    line({
      name: 'IOPS that a hot volume at QD 1 keeps beside a cold one at QD 32',
      value: `${(ratio.ofMedians * 100).toFixed(0)} %`,
      must: `≥ ${leastHotShare * 100} %`,
      detail: `rounds ${min.toFixed(2)}–${middle.toFixed(2)}–${max.toFixed(2)} (${ratio.rounds}); ${iops(coldHotWorkloads.beside)} / ${iops(coldHotWorkloads.alone)}; cold ${iops(coldHotWorkloads.cold)}`,
      isMet: ratio.ofMedians >= leastHotShare,
    }),
    line({
      name: 'p99 of the hot volume beside the cold one',
      value: `${p99Us.toFixed(0)} us`,
      must: `< ${mostHotP99Us} us`,
      detail: `alone ${medianOf(coldHotWorkloads.alone, (s) => s.p99Us).toFixed(0)} us`,
      isMet: p99Us < mostHotP99Us,
    }),
  ];
}
