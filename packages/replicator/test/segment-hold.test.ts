/** How long writes of a segment may be held. */
import { FakeClock } from '@stor/runtime/testing';
import t from 'tap';

import { SegmentHold } from '../src/primary/segment-hold.ts';
import type { Segment } from '../src/primary/segment.ts';
import type { WritePath } from '../src/primary/write-path.ts';

/** Timers that a busy process does not come to. */
class LateClock extends FakeClock {
  override after(): () => void {
    return () => {};
  }
}

function holdOn(clock: FakeClock): SegmentHold {
  const segment = { options: { clock }, membership: { stable: true }, stopped: false };
  const writes = { afterPump: [], isQuiet: true, pump: () => {} };
  return new SegmentHold(segment as unknown as Segment, writes as unknown as WritePath);
}

t.test('a hold that was longer than it may be is void, although its timer is late', async (t) => {
  const clock = new LateClock();
  const hold = holdOn(clock);
  const broken: string[] = [];
  hold.onBroken = (token) => broken.push(token);
  await hold.hold('a', 100);
  clock.advance(100);
  t.same(hold.release('a'), { heldMs: 100, intact: true });
  await hold.hold('b', 100);
  clock.advance(101);
  t.same(hold.release('b'), { heldMs: 101, intact: false });
  t.same(broken, ['b']);
  await hold.hold('c', 100);
  t.same(hold.release('c'), { heldMs: 0, intact: true });
});
