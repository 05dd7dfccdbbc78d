import type { Figures } from '../../measure/rounds.ts';

/** Parts that can be measured on their own; all samples of a part come from the same rounds. */
export const groups = ['one-replica', 'three-replicas', 'unreplicated', 'latency'] as const;
export type Group = (typeof groups)[number];

/** A promise of the form "Stor's figure divided by the best peer's". */
export interface Target {
  group: Group;
  ours: string;
  /** the best of these counts, workload by workload */
  peers: readonly string[];
  /** what it is called in a line */
  beside: string;
  /** id of the workload */
  workload: string;
  figure: 'iops' | 'cpuUsPerIo';
  /** IOPS: at least; CPU: at most */
  must: number;
  /** what we are after; null: nothing beyond the must */
  aim: number | null;
  /** a peer whose own figure comes from another workload */
  workloadOf?: Readonly<Record<string, string>>;
}

const qemu = ['qemu-nbd', 'qemu-nbd-io_uring'];
const threeCopies = ['qemu-quorum', 'qemu-quorum-fifo', 'gluster', 'ceph', 'longhorn'];

type Line = readonly [workload: string, must: number, aim: number | null];

function lines(
  base: Pick<Target, 'group' | 'ours' | 'peers' | 'beside'>,
  figure: Target['figure'],
  rows: readonly Line[],
): Target[] {
  return rows.map(([workload, must, aim]) => ({ ...base, figure, workload, must, aim }));
}

const besideQemu = {
  ...({ group: 'one-replica', ours: 'stor-1', peers: qemu } as const),
  beside: 'qemu-nbd (better aio)',
};
const besideNbdkit = {
  ...({ group: 'one-replica', ours: 'stor-1', peers: ['nbdkit'] } as const),
  beside: 'nbdkit file',
};
const besideThree = {
  ...({ group: 'three-replicas', ours: 'stor-3', peers: threeCopies } as const),
  beside: 'best of three copies',
};
const besideOne = {
  ...({ group: 'unreplicated', ours: 'stor-3', peers: qemu } as const),
  beside: 'one qemu-nbd, unreplicated',
};

/** Every ratio that is promised, first the must, then what we are after. */
export const targets: readonly Target[] = [
  ...lines(besideQemu, 'iops', [
    ['write-qd1', 1.1, 1.3],
    ['write-qd32', 1.8, 3],
    ['read-qd1', 0.85, 1.1],
    ['read-qd32', 1.5, 2],
    ['seq-write', 1.2, 2],
    ['seq-read', 1.2, 2],
  ]),
  ...lines(besideQemu, 'cpuUsPerIo', [
    ['write-qd32', 0.4, 0.2],
    ['read-qd32', 0.4, 0.2],
  ]),
  ...lines(besideNbdkit, 'iops', [
    ['write-qd1', 0.9, 1.2],
    ['write-qd32', 1.8, 3],
    ['read-qd1', 0.55, 1],
    ['read-qd32', 1.2, 1.8],
    ['seq-write', 0.8, 1.2],
    ['seq-read', 0.8, 1.2],
  ]),
  ...lines(besideThree, 'iops', [
    ['write-qd1', 1.3, 1.7],
    ['write-qd32', 3.5, 6],
    ['read-qd1', 2, null],
    ['read-qd32', 4, 8],
    ['seq-write', 1.2, 1.5],
    ['seq-read', 1.1, null],
  ]),
  {
    ...{ ...besideThree, beside: 'best that really flushes' },
    // Longhorn's FLUSH does nothing; every write of Ceph is durable when it is answered
    peers: ['qemu-quorum', 'gluster', 'ceph'],
    workloadOf: { ceph: 'write-qd1' },
    ...{ workload: 'write-flush', figure: 'iops', must: 1.3, aim: 2 },
  },
  ...lines(besideThree, 'cpuUsPerIo', [['write-qd32', 0.2, null]]),
  ...lines(besideOne, 'iops', [
    ['write-qd1', 0.55, 0.75],
    ['write-qd32', 1.5, 2],
  ]),
];

/** Systems of a group, with those that a recorded peer was measured beside. */
export const systemsOf: Readonly<Record<Group, readonly string[]>> = {
  'one-replica': ['stor-1', ...qemu, 'nbdkit'],
  'three-replicas': ['stor-3', 'qemu-nbd', ...threeCopies.filter((name) => name !== 'longhorn')],
  unreplicated: ['stor-3', ...qemu],
  latency: ['stor-1', 'stor-1-qos', 'stor-3', 'stor-3-qos'],
};

/** Workloads of a group: those of its targets. */
export function workloadsOf(group: Group): string[] {
  if (group === 'latency') return ['write-qd32'];
  const mine = targets.filter((target) => target.group === group);
  return [
    ...new Set(
      mine.flatMap(({ workload, workloadOf = {} }) => [workload, ...Object.values(workloadOf)]),
    ),
  ];
}

/** Whether more of the figure is better. */
export function isMoreBetter(figure: keyof Figures): boolean {
  return figure === 'iops' || figure === 'bytesPerSecond';
}
