import type { PrimaryStatus } from '../replicator-ports.ts';

/** From best to worst: a volume is in the state of the segment that is worst off. */
const order: PrimaryStatus['state'][] = [
  'serving',
  'holding',
  'failing',
  'activating',
  'stopping',
  'stopped',
];

/** The status of a volume of these segments. */
export function mergeStatus(segments: PrimaryStatus[]): PrimaryStatus {
  const rank = (status: PrimaryStatus): number => order.indexOf(status.state);
  const [first] = segments;
  if (!first) throw new Error('a volume has at least one segment');
  let worst = first;
  for (const status of segments) {
    const isWorse = rank(status) > rank(worst);
    const saysMore = rank(status) === rank(worst) && worst.reason === '' && status.reason !== '';
    if (isWorse || saysMore) worst = status;
  }
  const index = worst.segments[0]?.index ?? 0;
  const isOne = segments.length === 1 || worst.reason === '';
  return {
    ...worst,
    reason: isOne ? worst.reason : `segment ${index}: ${worst.reason}`,
    segments: segments.flatMap((status) => status.segments),
  };
}
