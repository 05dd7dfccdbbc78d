import type { Figures, Sample } from './rounds.ts';
import { median, spreadOf, type Spread } from './statistics.ts';

/** How one server compares with another at one workload. */
export interface Ratio {
  /** medians over the rounds that measured both */
  ours: number;
  theirs: number;
  /** of the two medians */
  ofMedians: number;
  /** of the two samples of each round */
  perRound: Spread;
  /** rounds that measured both */
  rounds: number;
}

/** One side of a comparison. */
export interface Side {
  server: string;
  workload: string;
}

/**
 * Ours divided by theirs, over the rounds that measured both: the samples of one round are neighbours
 * in time, so a machine that slows down for a while does not come between them. Null without such a round.
 */
export function ratioOf(
  samples: readonly Sample[],
  ours: Side,
  theirs: Side,
  figure: keyof Figures,
): Ratio | null {
  const own = byRound(samples, ours, figure);
  const other = byRound(samples, theirs, figure);
  const both = [...own.keys()].filter((round) => other.has(round));
  if (both.length === 0) return null;
  const ofRound = (values: Map<number, number>, round: number): number => values.get(round) ?? NaN;
  const medians = {
    ours: median(both.map((round) => ofRound(own, round))),
    theirs: median(both.map((round) => ofRound(other, round))),
  };
  return {
    ...medians,
    ofMedians: medians.ours / medians.theirs,
    perRound: spreadOf(both.map((round) => ofRound(own, round) / ofRound(other, round))),
    rounds: both.length,
  };
}

function byRound(
  samples: readonly Sample[],
  { server, workload }: Side,
  figure: keyof Figures,
): Map<number, number> {
  const mine = samples.filter((s) => s.server === server && s.workload === workload);
  return new Map(mine.map((sample) => [sample.round, sample[figure]]));
}
