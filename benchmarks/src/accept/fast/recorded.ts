import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkoutRoot } from '../../harness/checkout.ts';
import type { Figures } from '../../measure/rounds.ts';

/** A system that is not run here: what it did beside one that is. */
export interface RecordedPeer {
  name: string;
  date: string;
  source: string;
  acknowledges: string;
  /** the system that it was measured beside */
  beside: string;
  /** by workload */
  measured: Record<string, RecordedFigures>;
  /** of the system beside it, by workload; several where it was measured in several states */
  measuredBeside: Record<string, RecordedFigures[]>;
}

export type RecordedFigures = Pick<Figures, 'iops' | 'cpuUsPerIo'>;

/**
 * Its figure divided by that of the system beside it. What a server on a plain file does depends on the folios of that file
 * by a factor of two, what a peer with direct I/O does not: so of several figures beside it the one counts whose CPU
 * time per request, which a busy machine changes least, is nearest to what was measured now. Null: not recorded.
 */
export function recordedRatio(
  record: RecordedPeer,
  workload: string,
  figure: keyof RecordedFigures,
  besideCpuUs: number,
): number | null {
  const own = record.measured[workload];
  const distance = ({ cpuUsPerIo }: RecordedFigures): number =>
    Math.abs(Math.log(cpuUsPerIo / besideCpuUs));
  const beside = [...(record.measuredBeside[workload] ?? [])];
  const [nearest] = beside.sort((a, b) => distance(a) - distance(b));
  return own && nearest ? own[figure] / nearest[figure] : null;
}

export function readRecordedPeers(): RecordedPeer[] {
  const path = join(checkoutRoot(), 'benchmarks/peers/recorded.json');
  return (JSON.parse(readFileSync(path, 'utf8')) as { peers: RecordedPeer[] }).peers;
}
