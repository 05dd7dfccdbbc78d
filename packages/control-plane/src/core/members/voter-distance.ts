import type { ClusterState } from '../../resources/cluster-state.ts';

/** Labels whose nodes fail together, the largest first (DESIGN, "failure domain"). */
const domains = ['zone', 'rack'] as const;

/**
 * The candidates, the best voter first: each shares as few failure domains as possible with the
 * voters that stay and with those before it; of equals the one that an operator wants, then the one
 * that has been a member for longest.
 */
export function byDistance(
  candidates: readonly string[],
  voters: readonly string[],
  state: ClusterState,
): string[] {
  const chosen: string[] = [];
  const left = new Set(candidates);
  while (left.size > 0) {
    const others = [...voters, ...chosen];
    const [best = ''] = [...left].sort((a, b) => compare(state, others, a, b));
    left.delete(best);
    chosen.push(best);
  }
  return chosen;
}

function compare(state: ClusterState, others: readonly string[], a: string, b: string): number {
  const recordA = state.members.get(a)?.value;
  const recordB = state.members.get(b)?.value;
  const wanted = Number(recordB?.voter === 'wanted') - Number(recordA?.voter === 'wanted');
  if (wanted !== 0) return wanted;
  for (const domain of domains) {
    const more = shared(state, others, a, domain) - shared(state, others, b, domain);
    if (more !== 0) return more;
  }
  const age = (recordA?.addedAtMs ?? 0) - (recordB?.addedAtMs ?? 0);
  return age || (a < b ? -1 : 1);
}

/** How many of the others fail with it. A node without the label is in a domain with nobody. */
function shared(
  state: ClusterState,
  others: readonly string[],
  id: string,
  domain: string,
): number {
  const mine = state.nodes.get(id)?.value.labels[domain];
  if (mine === undefined) return 0;
  return others.filter((other) => state.nodes.get(other)?.value.labels[domain] === mine).length;
}
