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
