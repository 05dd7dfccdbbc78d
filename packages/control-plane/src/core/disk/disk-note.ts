import { formatByteSize, spaceLevel } from '@stor/protocol';
import type { EventNote, SpaceLevel } from '@stor/protocol';
import type { AgentDisk } from '../../agent-port.ts';

const rank: Readonly<Record<SpaceLevel, number>> = { unknown: 0, ok: 0, 'nearly-full': 1, full: 2 };

export function levelOf({ capacityBytes, freeBytes, reservedBytes = 0 }: AgentDisk): SpaceLevel {
  return spaceLevel({ capacityBytes, freeBytes, reservedBytes });
}

/** What to tell of a disk that this node saw before as `before` (null: it did not); null: nothing. */
export function diskNote(before: AgentDisk | null, now: AgentDisk, node: string): EventNote | null {
  const object = { kind: 'disk' as const, id: now.diskId };
  const disk = `disk ${now.path} of node ${node}`;
  const isNewly = (is: (disk: AgentDisk) => boolean): boolean =>
    is(now) && !(before !== null && is(before));
  if (isNewly((each) => each.state === 'failed')) {
    const message = `${disk} failed: ${now.message}`;
    return { type: 'warning', reason: 'disk-failed', object, message };
  }
  if (isNewly((each) => each.trouble !== undefined)) {
    const message = `${disk} is failing, what it holds moves elsewhere: ${now.trouble ?? ''}`;
    return { type: 'warning', reason: 'disk-failed', object, message };
  }
  const level = levelOf(now);
  if (now.state === 'failed' || rank[level] <= (before ? rank[levelOf(before)] : 0)) return null;
  const isFull = level === 'full';
  const free = `${formatByteSize(now.freeBytes)} of ${formatByteSize(now.capacityBytes)} free`;
  return {
    type: 'warning',
    reason: isFull ? 'disk-full' : 'disk-nearly-full',
    object,
    message: `${disk} is ${isFull ? 'full' : 'nearly full'}: ${free}`,
  };
}
