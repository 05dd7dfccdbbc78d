import type { Random } from '@stor/runtime';

/** Whom a fault hits, decided when it happens. */
export type FaultTarget = 'primary' | 'secondary' | 'leader' | 'any';

export const faultKinds = [
  'kill',
  'kill-in-write',
  'kill-all',
  'power',
  'power-in-write',
  'power-all',
  'pause',
  'cut',
  'partition',
  'one-way',
  'isolate',
  'control-cut',
  'slow-link',
  'slow-disk',
  'disk-error',
  'move',
  'double-kill',
  'split',
  'power-on-join',
  'lost-answer',
  'lost-member',
  'wake',
  'power-at-rest',
  'absence',
  'resync-burst',
  'power-on-slow-join',
  'homecoming',
  'power-unflushed',
  'operator-fence',
  'stalled-split',
  'fence-in-zero',
  'slow-takeover',
  'power-return',
  'fence-on-join',
  'order-update',
  'order-move-replica',
  'order-move-primary',
  'restore',
  'discard',
] as const;

/** Only in scenarios, and where a run asks for them: a kind more in the plan would change every seed. */
export const addedKinds = ['alone'] as const;

export type FaultKind = (typeof faultKinds)[number] | (typeof addedKinds)[number];

/** One fault: plain data, so that a plan can be kept in a file and be made smaller. */
export interface Fault {
  /** after the begin of the fault phase (ms) */
  atMs: number;
  kind: FaultKind;
  target: FaultTarget;
  /** how long it lasts (ms) */
  forMs: number;
  /** chance of its own, so that leaving another fault out does not change this one */
  seed: number;
}

const weights: Record<(typeof faultKinds)[number], number> = {
  kill: 12,
  'kill-in-write': 10,
  'kill-all': 9,
  power: 8,
  'power-in-write': 7,
  'power-all': 3,
  pause: 9,
  cut: 8,
  partition: 7,
  'one-way': 7,
  isolate: 7,
  'control-cut': 4,
  'slow-link': 4,
  'slow-disk': 4,
  'disk-error': 5,
  move: 12,
  'double-kill': 4,
  split: 9,
  'power-on-join': 6,
  'lost-answer': 7,
  'lost-member': 6,
  wake: 9,
  'power-at-rest': 4,
  absence: 7,
  'resync-burst': 7,
  'power-on-slow-join': 7,
  homecoming: 9,
  'power-unflushed': 5,
  'operator-fence': 7,
  'stalled-split': 5,
  'fence-in-zero': 6,
  'slow-takeover': 6,
  'power-return': 5,
  'fence-on-join': 6,
  'order-update': 6,
  'order-move-replica': 6,
  'order-move-primary': 6,
  restore: 5,
  discard: 3,
};

/** Between two faults (ms): often so short that they meet, sometimes long enough to heal. */
const shortGapMs = 10_000;
const longGapMs = 80_000;

/**
 * Each run leaves some kinds out and has more of some others: what only happens when two kinds meet
 * again and again is found sooner than by all kinds in every run (Groce et al., "Swarm Testing",
 * ISSTA 2012).
 */
const shares = [0, 0.5, 1, 1, 4] as const;
/** A dense run is short: it has time for a few kinds only. */
const denseShares = [0, 0, 0, 1, 6] as const;

function weightsOfRun(random: Random, isDense: boolean): Map<FaultKind, number> {
  const of = isDense ? denseShares : shares;
  const own = new Map<FaultKind, number>();
  for (const kind of faultKinds) {
    own.set(kind, weights[kind] * (of[Math.floor(random.next() * of.length)] ?? 1));
  }
  return own;
}

/** Of the added kinds (ms), one after the other is over. */
const addedGapMs = 45_000;

/** `faults`, and more of one kind between them. */
export function withAdded(
  faults: Fault[],
  kind: FaultKind,
  random: Random,
  lengthMs: number,
): Fault[] {
  const added: Fault[] = [];
  for (let atMs = 4_000; atMs < lengthMs; atMs += addedGapMs * (0.4 + random.next())) {
    const forMs = Math.round(lengthOf(kind, random));
    const seed = Math.floor(random.next() * 2 ** 31);
    added.push({ atMs: Math.round(atMs), kind, target: 'primary', forMs, seed });
  }
  return [...faults, ...added].sort((a, b) => a.atMs - b.atMs);
}

/** `pace`: how many times as fast as usual they come. */
export function planFaults(random: Random, lengthMs: number, pace = 1): Fault[] {
  const faults: Fault[] = [];
  const own = weightsOfRun(random, pace > 1);
  const total = [...own.values()].reduce((sum, weight) => sum + weight, 0);
  for (let atMs = 3_000; ;) {
    atMs += (random.next() * (random.next() < 0.6 ? shortGapMs : longGapMs)) / pace;
    if (atMs > lengthMs) return faults;
    let dice = random.next() * total;
    let kind: FaultKind = 'kill';
    for (const each of faultKinds) {
      kind = each;
      dice -= own.get(each) ?? 0;
      if (dice < 0) break;
    }
    const role = random.next();
    const target =
      role < 0.36 ? 'primary' : role < 0.62 ? 'leader' : role < 0.82 ? 'secondary' : 'any';
    faults.push({
      atMs: Math.round(atMs),
      kind,
      target,
      forMs: Math.round(lengthOf(kind, random)),
      seed: Math.floor(random.next() * 2 ** 31),
    });
  }
}

function lengthOf(kind: FaultKind, random: Random): number {
  const share = random.next();
  // mostly around the leases of 3 and 6 s and the silence of 2 s, sometimes much longer
  const long = random.next() < 0.15;
  switch (kind) {
    case 'power':
    case 'power-in-write':
    case 'power-all':
      return 300 + share * (long ? 60_000 : 8_000);
    case 'kill':
    case 'kill-in-write':
    case 'kill-all':
    case 'double-kill':
      return 50 + share * (long ? 90_000 : 6_000);
    case 'pause':
      return 200 + share * (long ? 40_000 : 9_000);
    case 'split':
      return 14_000 + share * (long ? 30_000 : 6_000);
    case 'lost-answer':
    case 'lost-member':
      // the leases of 6 s are over before it ends
      return 9_000 + share * 5_000;
    case 'alone':
      return 10_000 + share * 8_000;
    case 'fence-in-zero':
      return 6_000 + share * 5_000;
    case 'operator-fence':
      return 6_000 + share * 8_000;
    case 'stalled-split':
      return 8_000 + share * 6_000;
    case 'fence-on-join':
      return 12_000 + share * 6_000;
    case 'power-return':
    case 'power-on-join':
    case 'wake':
    case 'power-at-rest':
    case 'absence':
    case 'resync-burst':
    case 'power-on-slow-join':
    case 'homecoming':
    case 'power-unflushed':
    case 'discard':
      return 300 + share * 3_000;
    case 'order-update':
    case 'slow-disk':
      return 3_000 + share * 20_000;
    default:
      return 300 + share * (long ? 45_000 : 9_000);
  }
}
