interface Cluster {
  value: number;
  writeStart: number;
  minEnd: number;
  maxStart: number;
  wasRead: boolean;
  acknowledged: boolean;
}

/**
 * The history of one block. Every write writes another value, so linearizability can be decided
 * exactly (Gibbons and Korach 1997): the operations of each value span a zone; no two forward zones
 * may overlap and no backward zone may lie inside a forward one.
 */
export class RegisterHistory {
  readonly #clusters = new Map<number, Cluster>();

  constructor() {
    this.#clusters.set(0, {
      value: 0,
      writeStart: -1,
      minEnd: -1,
      maxStart: -1,
      wasRead: false,
      acknowledged: true,
    });
  }

  writeStarted(value: number, at: number): void {
    this.#clusters.set(value, {
      value,
      writeStart: at,
      minEnd: Infinity,
      maxStart: at,
      wasRead: false,
      acknowledged: false,
    });
  }

  writeAcknowledged(value: number, at: number): void {
    const cluster = this.#clusters.get(value);
    if (!cluster) return;
    cluster.acknowledged = true;
    cluster.minEnd = Math.min(cluster.minEnd, at);
  }

  /** Returns what is wrong with the read at once, or null. */
  read(value: number, startAt: number, endAt: number): string | null {
    const cluster = this.#clusters.get(value);
    if (!cluster) return `read ${value}, which nobody wrote`;
    if (endAt < cluster.writeStart) return `read ${value} before it was written`;
    cluster.wasRead = true;
    cluster.minEnd = Math.min(cluster.minEnd, endAt);
    cluster.maxStart = Math.max(cluster.maxStart, startAt);
    return null;
  }

  /** What is not linearizable, or null. Writes that were neither acknowledged nor read never were. */
  check(): string | null {
    const clusters = [...this.#clusters.values()].filter((c) => c.acknowledged || c.wasRead);
    const forward = clusters.filter((c) => c.minEnd < c.maxStart);
    const backward = clusters.filter((c) => c.minEnd >= c.maxStart);
    forward.sort((a, b) => a.minEnd - b.minEnd);
    for (let i = 1; i < forward.length; i++) {
      const before = forward[i - 1];
      const after = forward[i];
      if (before && after && before.maxStart > after.minEnd) {
        return `values ${before.value} and ${after.value} came back after each other`;
      }
    }
    for (const zone of forward) {
      const inside = backward.find((c) => c.maxStart > zone.minEnd && c.minEnd < zone.maxStart);
      if (inside) return `value ${zone.value} was read after ${inside.value} had replaced it`;
    }
    return null;
  }
}
