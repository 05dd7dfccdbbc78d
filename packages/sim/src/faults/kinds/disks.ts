import type { FaultCall, FaultScene } from '../fault-scene.ts';
import { slowDiskMs } from './pace.ts';

/** A disk fails only when all is well; that is waited for so many seconds. */
const diskPatience = 15;
/** A disk that fails does so for this long (ms); it is out for good after the first error. */
const errorsForMs = 4_000;

export function slowDisk({ scene, fault, node, random }: FaultCall): void {
  scene.count('slow-disk');
  const slowMs = slowDiskMs[Math.floor(random.next() * slowDiskMs.length)] ?? 20;
  // often only syncs are slow, while writes go to the page cache as fast as ever
  if (random.next() < 0.4) node.slowSyncMs = slowMs;
  else node.slowDiskMs = slowMs;
  scene.after(fault.forMs, () => {
    node.slowDiskMs = 0;
    node.slowSyncMs = 0;
  });
}

/**
 * At most one disk in a run, and only while every volume has two other members with their memory:
 * with a dead disk in the set and no memory anywhere else a volume rightly waits for ever.
 */
export async function diskError({ scene, node, random }: FaultCall): Promise<void> {
  const { nodes, scheduler } = scene.cluster;
  if (scene.broken >= 0 || !node.clock.running) return;
  if (nodes.some(({ files }) => files.crashPending)) return;
  for (let tries = 0; !(await areWhole(scene, node.index)); tries++) {
    if (tries === diskPatience) return;
    await scheduler.sleep(1_000);
  }
  if (scene.broken >= 0 || !node.clock.running) return;
  scene.broken = node.index;
  scene.count('disk-error');
  const isSync = random.next() < 0.6;
  const parts = isSync
    ? ['/data', '/data', '/sums', '']
    : ['/data', '/sums', '/journal', '/slots', ''];
  const what = parts[Math.floor(random.next() * parts.length)] ?? '';
  const operation = isSync ? 'datasync' : 'write';
  const { files } = node;
  files.hook = (each, path) => {
    const isMeant = each === operation && path.includes('disk') && path.endsWith(what);
    // other faults may have come since: nothing is promised when the last copy's disk fails
    return isMeant && scene.hasOthers(node.index) ? 'EIO' : null;
  };
  scene.after(errorsForMs, () => {
    files.hook = () => null;
  });
}

async function areWhole(scene: FaultScene, butNode: number): Promise<boolean> {
  for (const volume of scene.cluster.volumes) {
    if (scene.membersBut(volume, butNode) < 2) return false;
    if ((await scene.cluster.unhealthy(volume)) !== null) return false;
  }
  return true;
}
