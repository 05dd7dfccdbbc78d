/** How many letters must be changed, added or left out to make one word the other. */
export function wordDistance(one: string, other: string): number {
  let row = Array.from({ length: other.length + 1 }, (_, at) => at);
  for (let i = 1; i <= one.length; i++) {
    const next = [i];
    for (let j = 1; j <= other.length; j++) {
      const change = (row[j - 1] ?? 0) + (one[i - 1] === other[j - 1] ? 0 : 1);
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[other.length] ?? 0;
}

/** The known name that was probably meant; null when none is near. */
export function similarName(name: string, known: readonly string[]): string | null {
  // a name of thousands of letters is none of ours, and would take long to compare
  const given = name.toLowerCase().slice(0, 64);
  const mostChanges = given.length <= 4 ? 1 : 2;
  let best: { name: string; distance: number } | null = null;
  for (const each of known) {
    const distance = wordDistance(given, each);
    if (distance <= mostChanges && distance < (best?.distance ?? Infinity)) {
      best = { name: each, distance };
    }
  }
  return best?.name ?? null;
}
