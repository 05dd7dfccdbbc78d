import { chunkBytes, regionBytes } from '@stor/protocol';
import type { Random } from '@stor/runtime';

import { sectorBytes } from '../../checkers/volume-history.ts';
import type { SimVolume } from '../../cluster/sim-cluster.ts';
import type { Request } from '../../workload/choose-request.ts';
import type { FaultCall, FaultScene } from '../fault-scene.ts';

export const chunkSectors = chunkBytes / sectorBytes;
const regionSectors = regionBytes / sectorBytes;
/** The volume's usual clients begin nothing meanwhile (ms); ended by `wakeUp`. */
const hushMs = 120_000;
/** What is asked is answered within this (ms), or the fault is called off. */
const patienceMs = 20_000;
/** Two checkpoints and the rest before them (ms). */
const restMs = 15_000;

/** What happens to a region that was at rest: one thing, as a second one would mark it too. */
const wakings = [
  'new-chunk',
  'new-chunk',
  'trim-chunk',
  'trim-chunk',
  'zero-part',
  'overwrite',
  'border',
  'nothing',
] as const;
type Waking = (typeof wakings)[number];

/** A volume at rest: no member has a mark. */
export interface Rest {
  /** first to be done, step by step, so that chunks are there or are free */
  readonly steps: readonly (readonly Request[])[];
  /** what then wakes regions, by region */
  readonly wakings: readonly (readonly Request[])[];
  /** everything that any of it touches */
  readonly reads: readonly Request[];
}

/**
 * The clients are quiet, some chunks are written and some freed, and checkpoints or an orderly move
 * clear every mark. Null when that did not come about. Whoever calls this calls `wakeUp` in the end.
 */
export async function comeToRest(call: FaultCall, mayMove = true): Promise<Rest | null> {
  const { scene, random, volume } = call;
  scene.load.hush(hushMs);
  const rest = planRest(random, volume);
  for (const step of rest.steps) if (!(await done(scene, volume, step))) return null;
  if (mayMove && random.next() < 0.6) await openAt(call, pick(random, scene.cluster.nodes.length));
  return (await areMarksCleared(scene, volume)) ? rest : null;
}

export function wakeUp(scene: FaultScene): void {
  scene.load.hush(0);
}

/** An orderly move clears all marks; the volume is served there afterwards. */
export async function openAt({ scene, volume }: FaultCall, node: number): Promise<boolean> {
  scene.load.move(volume, node);
  return done(scene, volume, [requestOf('read', 0, 8)]);
}

export function areMarksCleared(scene: FaultScene, volume: SimVolume): Promise<boolean> {
  const { cluster } = scene;
  return cluster.scheduler.until(
    () => {
      const { members } = scene.judge(volume);
      const views = cluster.replicasOf(volume).filter((view) => members.includes(view.replicaId));
      return views.length > 0 && views.every(({ marks }) => marks.length === 0);
    },
    restMs,
    100,
  );
}

/** False when not everything was answered in time. */
export async function done(
  scene: FaultScene,
  volume: SimVolume,
  requests: readonly Request[],
): Promise<boolean> {
  let isOver = false;
  void scene.load.ask(volume, requests).then(() => {
    isOver = true;
  });
  return scene.cluster.scheduler.until(() => isOver, patienceMs, 20);
}

/** Each node in turn becomes primary, and reads what was touched from its own replica. */
export async function lookEverywhere(call: FaultCall, rest: Rest): Promise<void> {
  const { scene, random, volume } = call;
  const { nodes } = scene.cluster;
  const first = pick(random, nodes.length);
  // the first one once more: what it read must not have been undone
  for (let i = 0; i <= nodes.length; i++) {
    scene.load.move(volume, (first + i) % nodes.length);
    if (!(await done(scene, volume, rest.reads))) return;
  }
}

function planRest(random: Random, volume: SimVolume): Rest {
  const sectors = volume.sizeBytes / sectorBytes;
  const regions = Math.ceil(sectors / regionSectors);
  const steps: [Request[], Request[]] = [[], []];
  const found: Request[][] = [];
  for (let region = 0; region < regions; region++) {
    const isLast = region === regions - 1;
    const what = wakings[pick(random, wakings.length)] ?? 'nothing';
    if (what === 'nothing' || (what === 'border' && isLast)) continue;
    const border = (region + 1) * regionSectors;
    const waking: Request[] = [];
    const count = what === 'border' ? 1 : 1 + pick(random, 3);
    const chunks = Math.ceil((Math.min(border, sectors) - region * regionSectors) / chunkSectors);
    // the first and the last chunk of a region more often than those between
    const start = random.next() < 0.6 ? [0, chunks - 1][pick(random, 2)] : pick(random, chunks);
    for (let i = 0; i < count; i++) {
      const chunk = ((start ?? 0) + i) % chunks;
      const from = what === 'border' ? border : region * regionSectors + chunk * chunkSectors;
      planOne(random, what, from, sectors, steps, waking);
    }
    found.push(waking);
    // what crosses the border wakes the next region
    if (what === 'border') region += 1;
  }
  const all = [...steps.flat(), ...found.flat()];
  const reads = all.map(({ from, to }) => requestOf('read', from, to));
  return { steps, wakings: found, reads };
}

/** What is done to the chunk at `start` first, and what wakes it. */
function planOne(
  random: Random,
  what: Waking,
  start: number,
  sectors: number,
  [writes, frees]: [Request[], Request[]],
  waking: Request[],
): void {
  const end = Math.min(sectors, start + chunkSectors);
  const spot = Math.min(end - 8, start + 8 * pick(random, 56));
  const isRound = random.next() < 0.6;
  const offset = isRound ? 0 : pick(random, 8);
  const length = 8 * (1 + pick(random, 6)) + (isRound ? 0 : pick(random, 8));
  const kind = random.next() < 0.5 ? 'zero' : 'trim';
  const part = (as: Request['kind'], from: number): Request =>
    requestOf(as, from, Math.min(as === 'trim' ? end : sectors, from + length));
  writes.push(requestOf('write', spot, Math.min(end, spot + 56)));
  if (what === 'new-chunk') {
    frees.push(requestOf('trim', start, end));
    waking.push(
      random.next() < 0.2 ? requestOf('write', start, end) : part('write', spot + offset),
    );
  } else if (what === 'trim-chunk') waking.push(requestOf(kind, start, end));
  else if (what === 'zero-part') waking.push(part(kind, spot + offset));
  else if (what === 'overwrite') waking.push(part('write', spot + offset));
  else {
    const before = start - 8 * (1 + pick(random, 3)) - offset;
    const after = start + 8 * (1 + pick(random, 3)) + offset;
    writes.push(requestOf('write', before, after));
    if (random.next() < 0.5) frees.push(requestOf('trim', start - chunkSectors, end));
    waking.push(requestOf('write', before, Math.min(sectors, after)));
  }
}

export function requestOf(kind: Request['kind'], from: number, to: number): Request {
  return { kind, from, to: Math.max(to, from + 1), fua: false, noHole: false };
}

export function pick(random: Random, count: number): number {
  return Math.floor(random.next() * count);
}
