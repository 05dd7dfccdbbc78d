import type { Workload } from './rounds.ts';

/** A workload of the matrix. */
export interface BenchWorkload extends Workload {
  /** short name, for `--only` and for tables of targets */
  id: string;
  kind: 'read' | 'write';
}

function random(rw: 'randwrite' | 'randread', iodepth: number, numjobs = 1): Workload['options'] {
  const jobs: Record<string, string> =
    numjobs === 1 ? {} : { numjobs: String(numjobs), group_reporting: '1' };
  return { rw, bs: '4k', iodepth: String(iodepth), ...jobs };
}

/** QD: requests in flight. 4×32: four connections (four fio jobs) with 32 each. */
export const benchWorkloads: readonly BenchWorkload[] = [
  {
    id: 'write-qd1',
    kind: 'write',
    name: '4 KiB random write, QD 1',
    options: random('randwrite', 1),
  },
  {
    id: 'write-qd32',
    kind: 'write',
    name: '4 KiB random write, QD 32',
    options: random('randwrite', 32),
  },
  {
    id: 'write-4x32',
    kind: 'write',
    name: '4 KiB random write, 4×32',
    options: random('randwrite', 32, 4),
  },
  { id: 'read-qd1', kind: 'read', name: '4 KiB random read, QD 1', options: random('randread', 1) },
  {
    id: 'read-qd32',
    kind: 'read',
    name: '4 KiB random read, QD 32',
    options: random('randread', 32),
  },
  {
    id: 'read-4x32',
    kind: 'read',
    name: '4 KiB random read, 4×32',
    options: random('randread', 32, 4),
  },
  {
    id: 'seq-write',
    kind: 'write',
    name: '1 MiB sequential write, QD 8',
    options: { rw: 'write', bs: '1m', iodepth: '8' },
  },
  {
    id: 'seq-read',
    kind: 'read',
    name: '1 MiB sequential read, QD 8',
    options: { rw: 'read', bs: '1m', iodepth: '8' },
  },
  {
    id: 'write-flush',
    kind: 'write',
    name: '4 KiB random write + FLUSH, QD 1',
    options: { ...random('randwrite', 1), fsync: '1' },
  },
];

/** The workload with this id; throws when there is none. */
export function workloadById(id: string): BenchWorkload {
  const found = benchWorkloads.find((workload) => workload.id === id);
  if (!found) throw new Error(`there is no workload ${id}`);
  return found;
}

/** Those whose id or name holds the text; every one when it is empty. */
export function workloadsLike(text: string): BenchWorkload[] {
  return benchWorkloads.filter(({ id, name }) => id.includes(text) || name.includes(text));
}
