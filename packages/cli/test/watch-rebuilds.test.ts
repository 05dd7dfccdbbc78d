import t from 'tap';
import { StorError } from '@stor/protocol';
import { FakeClock } from '@stor/runtime/testing';
import { FakeCluster, startMs } from './support/fake-cluster.ts';
import { run } from './support/run.ts';
import { fakeRebuild } from './support/scenes.ts';

/** A watch on a clock that moves one look at a time. */
function watch(cluster: FakeCluster, argv: string[], columns?: number) {
  const clock = new FakeClock(startMs);
  const controller = new AbortController();
  const written: string[] = [];
  const running = run(cluster, ['rebuild', 'ls', '--watch', ...argv], {
    clock,
    signal: controller.signal,
    stdout: { write: (text) => written.push(text) },
    ...(columns === undefined ? {} : { columns: () => columns }),
  });
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  let looks = 0;
  /** lets it look once more, and resolves with what it wrote about that */
  const looked = async (): Promise<string> => {
    if (looks > 0) clock.advance(1_000);
    looks += 1;
    while (cluster.calls.length < looks) await turn();
    await turn();
    return written.splice(0).join('');
  };
  return { looked, stop: () => controller.abort(), running };
}

t.test('a terminal is redrawn in place', async (t) => {
  const cluster = new FakeCluster();
  const { looked, stop, running } = watch(cluster, [], 200);
  t.match(await looked(), /^2026-01-02T03:04:05Z, Ctrl-C ends\nNo replica is being made equal\.\n/);
  cluster.rebuilds = [fakeRebuild({ replicaId: 'r-b' }), fakeRebuild({ replicaId: 'r-a' })];
  cluster.rebuilds[1] = { ...fakeRebuild({ replicaId: 'r-a' }), node: 'n2' };
  await looked();
  const drawn = await looked();
  t.equal(drawn.split('\u001b').length - 1, 2, 'up over the lines before, then erase');
  t.match(drawn, /\u001b\[4A\u001b\[J/);
  t.match(drawn, /Ctrl-C ends\nVOLUME .*\ndb +n2 .* 37% .*\ndb +n3 .* 37% .*80MiB\/s +8s/);
  stop();
  const { exitCode, stderr } = await running;
  t.same([exitCode, stderr], [130, ''], 'Ctrl-C is how a watch ends: nothing went wrong');
});

t.test('a narrow terminal gets lines that fit, so that redrawing finds them', async (t) => {
  const cluster = new FakeCluster();
  cluster.rebuilds = [fakeRebuild({ message: 'a long message '.repeat(20) })];
  const { looked, stop, running } = watch(cluster, [], 40);
  const lines = (await looked()).replaceAll(/\u001b\[[0-9]*[AJ]/g, '').split('\n');
  t.ok(lines.length > 3);
  t.ok(lines.every((line) => line.length < 40));
  stop();
  await running;
});

t.test('without a terminal only what has changed is written', async (t) => {
  const cluster = new FakeCluster();
  const { looked, stop, running } = watch(cluster, []);
  t.equal(await looked(), '2026-01-02T03:04:05Z no replica is being made equal\n');
  t.equal(await looked(), '');
  cluster.rebuilds = [fakeRebuild({})];
  t.match(
    await looked(),
    /^2026\S+ db n3 \(returned\) running from n1, 37%, 640MiB left, 80MiB\/s, ready in 8s\n$/,
  );
  cluster.rebuilds = [fakeRebuild({ state: 'waiting', message: 'node n1 is down', source: '' })];
  t.match(await looked(), /db n3 \(returned\) waiting, 37%, 640MiB left: node n1 is down\n$/);
  cluster.rebuilds = [];
  t.match(await looked(), /db n3 is done, or was called off\n$/);
  stop();
  t.equal((await running).exitCode, 130);
});

t.test('documents follow one another', async (t) => {
  for (const [form, pattern] of [
    ['json', /^\[\]\n\[\{"volume":"db".*\}\]\n$/],
    ['yaml', /^---\n\[\]\n---\n- volume: db\n/],
    ['name', /^db\/r-0000000000000003\n$/],
  ] as const) {
    const cluster = new FakeCluster();
    const { looked, stop, running } = watch(cluster, ['-o', form], 200);
    const first = await looked();
    cluster.rebuilds = [fakeRebuild({})];
    t.match(first + (await looked()), pattern, form);
    stop();
    t.equal((await running).exitCode, 130);
  }
});

t.test('a control plane that is away is waited for, other errors end the watch', async (t) => {
  const cluster = new FakeCluster();
  cluster.rebuilds = [fakeRebuild({})];
  const { looked, running } = watch(cluster, [], 200);
  await looked();
  cluster.fail('listRebuilds', 'UNAVAILABLE', 'no quorum');
  t.match(await looked(), /Ctrl-C ends\nnot up to date: no quorum\nVOLUME .*\ndb +n3/);
  cluster.failures.clear();
  t.notMatch(await looked(), /not up to date/);
  cluster.failures.set('listRebuilds', new StorError('NOT_FOUND', 'volume "db" does not exist'));
  await looked();
  const { exitCode, stderr } = await running;
  t.same([exitCode, stderr], [3, 'error: volume "db" does not exist\n']);
});

t.test('--timeout ends a watch as a timeout', async (t) => {
  const cluster = new FakeCluster();
  const { exitCode } = await run(cluster, ['rebuild', 'ls', '-w', '--timeout', '20ms'], {
    clock: new FakeClock(),
  });
  t.equal(exitCode, 124);
});
