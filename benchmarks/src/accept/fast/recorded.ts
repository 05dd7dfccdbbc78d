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
  /** its figure divided by that of the system beside it, by workload */
  ratios: Record<string, Partial<Record<keyof Figures, number>>>;
}

export function readRecordedPeers(): RecordedPeer[] {
  const path = join(checkoutRoot(), 'benchmarks/peers/recorded.json');
  return (JSON.parse(readFileSync(path, 'utf8')) as { peers: RecordedPeer[] }).peers;
}
