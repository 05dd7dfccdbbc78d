import { regionBytes } from '@stor/protocol';
import type { Random } from '@stor/runtime';

import { sectorBytes } from '../checkers/volume-history.ts';
import type { IoKind, SimVolume } from '../cluster/sim-cluster.ts';

/** In sectors. */
export interface Request {
  kind: IoKind;
  from: number;
  to: number;
  fua: boolean;
  noHole: boolean;
}

const sectorsPerRegion = regionBytes / sectorBytes;
/** Most requests go to one region for so long, so that others come to rest (ms). */
const focusMs = 45_000;
/** Sectors around which requests meet: block, chunk and region borders, within one region. */
const spots = [0, 8, 16, 24, 503, 512, 1024 + 4, 4096 - 8, sectorsPerRegion - 16];

/** Small requests at few places, so that they meet; some long ones, some anywhere. */
export function chooseRequest(random: Random, volume: SimVolume, nowMs: number): Request {
  const pick = (count: number): number => Math.floor(random.next() * count);
  const kind = chooseKind(random.next());
  if (kind === 'flush') return { kind, from: 0, to: 0, fua: false, noHole: false };
  const sectors = volume.sizeBytes / sectorBytes;
  const regions = Math.ceil(sectors / sectorsPerRegion);
  const focus = Math.floor(nowMs / focusMs) % regions;
  const region = random.next() < 0.85 ? focus : pick(regions);
  const dice = random.next();
  const spot = dice < 0.8 ? (spots[pick(spots.length)] ?? 0) : pick(sectorsPerRegion);
  const size = random.next();
  const longest = size < 0.55 ? 16 : size < 0.9 ? 64 : size < 0.98 ? 300 : 1_200;
  let from = region * sectorsPerRegion + spot;
  let length = 1 + pick(longest);
  if (random.next() < 0.7) {
    from = Math.floor(from / 8) * 8;
    length = Math.ceil(length / 8) * 8;
  }
  from = Math.min(from, sectors - 8);
  const to = Math.min(sectors, from + length);
  return { kind, from, to, fua: random.next() < 0.04, noHole: random.next() < 0.4 };
}

/** Over the border of two regions, each of which has a mark of its own. */
export function chooseAtBorder(
  random: Random,
  volume: SimVolume,
  wanted: 'read' | 'write' | 'zero',
): Request {
  const pick = (count: number): number => Math.floor(random.next() * count);
  const sectors = volume.sizeBytes / sectorBytes;
  const borders = Math.max(1, Math.ceil(sectors / sectorsPerRegion) - 1);
  const border = (1 + pick(borders)) * sectorsPerRegion;
  const from = border - 8 * (1 + pick(40));
  const to = Math.min(sectors, border + 8 * (1 + pick(80)));
  const kind = wanted === 'zero' && random.next() < 0.3 ? 'trim' : wanted;
  return { kind, from, to, fua: false, noHole: random.next() < 0.6 };
}

function chooseKind(dice: number): IoKind {
  if (dice < 0.42) return 'read';
  if (dice < 0.84) return 'write';
  if (dice < 0.9) return 'zero';
  if (dice < 0.95) return 'trim';
  return 'flush';
}
