import t from 'tap';
import { LookPace } from '../src/core/replication/look-pace.ts';
import { quietLookMs, tickMs } from '../src/replication/limits.ts';

function looks(pace: LookPace, ticks: number, isQuiet: (tick: number) => boolean): number[] {
  return Array.from({ length: ticks }, (_, tick) => tick).filter((tick) =>
    pace.isDue(tick * tickMs, isQuiet(tick)),
  );
}

t.test('a quiet engine looks at every fourth tick, one that is wanted at each', async (t) => {
  t.same(
    looks(new LookPace(quietLookMs), 10, () => true),
    [0, 4, 8],
  );
  t.same(
    looks(new LookPace(quietLookMs), 4, () => false),
    [0, 1, 2, 3],
  );
});

t.test('it looks at once when somebody comes, and waits anew when they have gone', async (t) => {
  const isQuiet = (tick: number): boolean => tick !== 2;
  t.same(looks(new LookPace(quietLookMs), 8, isQuiet), [0, 2, 6]);
});
