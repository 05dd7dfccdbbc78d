import t from 'tap';
import { StorError } from '@stor/protocol';
import { FakeClock } from '@stor/runtime/testing';
import { FakeCluster, startMs } from './support/fake-cluster.ts';
import { run } from './support/run.ts';
import { fakeEvent } from './support/scenes.ts';

/** `events -f` on a clock that moves one look at a time. */
function follow(cluster: FakeCluster, argv: string[]) {
  const clock = new FakeClock(startMs);
  const controller = new AbortController();
  const written: string[] = [];
  const running = run(cluster, ['events', '-f', ...argv], {
    clock,
    signal: controller.signal,
    stdout: { write: (text) => written.push(text) },
  });
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  let looks = 0;
  const looked = async (): Promise<string> => {
    if (looks > 0) clock.advance(1_000);
    looks += 1;
    while (cluster.calls.length < looks) await turn();
    await turn();
    return written.splice(0).join('');
  };
  return { looked, stop: () => controller.abort(), running };
}

t.test('only what is new or has changed is shown', async (t) => {
  const cluster = new FakeCluster();
  const { looked, stop, running } = follow(cluster, []);
  t.equal(await looked(), '');
  cluster.events = [fakeEvent(4)];
  t.match(await looked(), /^2026\S+ warning bad-block-found replica\/r-\S+ on n1: the block .*\n$/);
  t.equal(await looked(), '');
  cluster.events = [fakeEvent(4, { count: 3, resourceVersion: 9 })];
  t.match(await looked(), / on n1 \(3 times\): the block/);
  t.equal(await looked(), '');
  stop();
  t.equal((await running).exitCode, 130);
});

t.test('documents, one in a line', async (t) => {
  const cluster = new FakeCluster();
  cluster.events = [fakeEvent(1), fakeEvent(2, { type: 'normal' })];
  const { looked, stop, running } = follow(cluster, ['-o', 'json', '--warnings']);
  const text = await looked();
  t.equal(text.split('\n').length, 2);
  t.match(JSON.parse(text), { reason: 'bad-block-found', resourceVersion: 1 });
  stop();
  await running;
});

t.test('a control plane that is away is waited for, other errors end it', async (t) => {
  const cluster = new FakeCluster();
  const { looked, running } = follow(cluster, []);
  await looked();
  cluster.fail('listEvents', 'UNAVAILABLE', 'no quorum');
  t.equal(await looked(), '');
  cluster.failures.clear();
  cluster.events = [fakeEvent(1)];
  t.match(await looked(), /bad-block-found/);
  cluster.failures.set('listEvents', new StorError('INTERNAL', 'broken'));
  await looked();
  const { exitCode, stderr } = await running;
  t.same([exitCode, stderr], [1, 'not up to date: no quorum\nerror: broken\n']);
});

t.test('events are chosen by type, reason and time, and bad choices refused', async (t) => {
  const cluster = new FakeCluster();
  const nowMs = startMs + 90_061_000;
  cluster.events = [
    fakeEvent(1, { reason: 'disk-full', lastMs: nowMs - 3_600_000 }),
    fakeEvent(2, { reason: 'scrub-finished', type: 'normal', lastMs: nowMs - 60_000 }),
    fakeEvent(3, { reason: 'disk-failed', lastMs: nowMs - 1_000 }),
  ];
  const reasons = async (...argv: string[]): Promise<string[]> => {
    const { stdout } = await run(cluster, ['events', '-o', 'json', ...argv]);
    return (JSON.parse(stdout) as { reason: string }[]).map(({ reason }) => reason);
  };
  t.same(await reasons('--type', 'warning'), ['disk-full', 'disk-failed']);
  t.same(await reasons('--type', 'normal'), ['scrub-finished']);
  t.same(await reasons('--since', '10m'), ['scrub-finished', 'disk-failed']);
  t.same(await reasons('--reason', 'disk-full,disk-failed', '--limit', '1'), ['disk-failed']);
  for (const [argv, message] of [
    [['--type', 'loud'], /--type "loud" is not valid: use normal or warning/],
    [['--type', 'normal', '--warnings'], /leave nothing/],
    [['--reason', 'Disk Full'], /--reason "Disk Full" is not valid/],
    [['--since', 'monday'], /time "monday" is not valid/],
  ] as const) {
    const { exitCode, stderr, stdout } = await run(cluster, ['events', ...argv]);
    t.same([exitCode, stdout], [2, '']);
    t.match(stderr, message);
  }
});
