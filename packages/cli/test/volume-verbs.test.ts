import { StorError } from '@stor/protocol';
import t from 'tap';
import { FakeCluster, startMs } from './support/fake-cluster.ts';
import { immediateClock } from './support/immediate-clock.ts';
import { run } from './support/run.ts';
import { scenes } from './support/scenes.ts';

async function clusterWithDb(): Promise<FakeCluster> {
  const cluster = new FakeCluster();
  await run(cluster, ['volume', 'create', 'db', '--size', '1GiB']);
  cluster.calls = [];
  return cluster;
}

const methods = (cluster: FakeCluster) => cluster.calls.map(({ method }) => method);
const requestOf = (cluster: FakeCluster, method: string) =>
  cluster.calls.find((call) => call.method === method)?.request;

/** A terminal on which somebody gives this answer. */
function terminal(answer: string, questions: string[]) {
  return {
    isTty: true,
    ask: async (question: string) => {
      questions.push(question);
      return answer;
    },
  };
}

t.test('an update sends only what was given, to the id that it looked at', async (t) => {
  const cluster = await clusterWithDb();
  await run(cluster, ['volume', 'update', 'db', '--io-timeout', '1.5s', '--no-shared']);
  t.same(requestOf(cluster, 'updateVolume'), {
    name: 'v-0000000000000001',
    policy: { ioTimeoutMs: 1500, shared: false },
  });
  t.same(methods(cluster), ['getVolume', 'updateVolume'], 'a policy needs no waiting');
  cluster.calls = [];
  await run(cluster, ['volume', 'update', 'db', '--replicas', '2', '--shared', '--no-wait']);
  t.same(requestOf(cluster, 'updateVolume'), {
    name: 'v-0000000000000001',
    replicas: 2,
    policy: { shared: true },
  });
});

t.test('a terminal is asked about what is not safe', async (t) => {
  for (const [argv, question] of [
    [
      ['update', 'db', '--replicas', '1', '--no-wait'],
      'Change volume db? With 1 replica the loss of its disk is the loss of the volume. [y/N] ',
    ],
    [
      ['recover', 'db', '--accept-unflushed-loss'],
      'Recover volume db? Writes that were acknowledged and never flushed may be lost for good; those that were flushed stay. [y/N] ',
    ],
  ] as const) {
    const cluster = await clusterWithDb();
    const questions: string[] = [];
    const no = await run(cluster, ['volume', ...argv], terminal('', questions));
    t.same(questions, [question]);
    t.equal(no.exitCode, 130);
    t.same(methods(cluster), ['getVolume'], 'nothing was changed');
    const yes = await run(cluster, ['volume', ...argv], terminal('y', questions));
    t.equal(yes.exitCode, 0, yes.stderr);
    const asked = questions.length;
    const forced = await run(cluster, ['volume', ...argv, '--yes'], terminal('no', questions));
    t.same([forced.exitCode, questions.length], [0, asked], '--yes asks nothing');
  }
});

t.test('a wait shows where it is on a terminal, and leaves nothing behind', async (t) => {
  const cluster = await clusterWithDb();
  scenes['there is a node n4']?.(cluster);
  scenes['the replicas of db are filled while we look']?.(cluster);
  const { exitCode, stderr } = await run(cluster, ['volume', 'update', 'db', '--replicas', '4'], {
    isTty: true,
    columns: () => 60,
  });
  t.equal(exitCode, 0);
  const drawn = stderr.split('\r\u001b[K');
  t.same(drawn.slice(1), [
    'waiting for n4 (creating)',
    'waiting for n4 (update): 37%, 640MiB left, 80MiB/s, ready i',
    'waiting for n4 (update): 93%, 64MiB left, 80MiB/s, ready in',
    'waiting for n4 (update): paused by "storctl rebuild pause d',
    '',
  ]);
});

t.test('an interrupted or late wait says that the change goes on', async (t) => {
  const cluster = await clusterWithDb();
  const argv = ['volume', 'update', 'db', '--replicas', '2'];
  const late = await run(cluster, [...argv, '--timeout', '30ms']);
  t.equal(late.exitCode, 124);
  t.match(
    late.stderr,
    /error: not done within 0\.03 s; the change goes on by itself: "storctl rebuild ls db" shows/,
  );
  const controller = new AbortController();
  cluster.steps.push(
    () => {},
    () => {},
    () => controller.abort(),
  );
  const interrupted = await run(cluster, argv, { signal: controller.signal });
  t.equal(interrupted.exitCode, 130);
  t.match(interrupted.stderr, /error: interrupted; the change goes on by itself/);
});

t.test('a wait outlives an election, but not a control plane that stays away', async (t) => {
  const cluster = await clusterWithDb();
  const away = () => cluster.fail('getVolume', 'UNAVAILABLE', 'no node answers (3 were tried)');
  const argv = ['volume', 'update', 'db', '--replicas', '2'];
  cluster.steps.push(
    () => {},
    // from the next look on
    away,
  );
  const clock = immediateClock(startMs);
  const startedMs = clock.monotonicMs();
  const { exitCode, stderr } = await run(cluster, argv, { clock });
  t.equal(exitCode, 9);
  t.match(stderr, /waiting: no node answers/);
  t.match(stderr, /error: volume db was changed, but how far that is cannot be said: no node/);
  t.ok(clock.monotonicMs() - startedMs > 60_000);
  cluster.failures.clear();
  cluster.steps.push(
    () => {},
    () => {},
    away,
  );
  let looks = 0;
  const back = immediateClock(startMs);
  const short = {
    ...back,
    after: (ms: number, fn: () => void) =>
      back.after(ms, () => {
        if (++looks === 10) {
          cluster.failures.clear();
          scenes['the replicas of db are filled while we look']?.(cluster);
        }
        fn();
      }),
  };
  t.equal((await run(cluster, argv, { clock: short })).exitCode, 0);
  t.ok(looks >= 10);
});

t.test('one volume that cannot be paused does not keep the others', async (t) => {
  const cluster = await clusterWithDb();
  await run(cluster, ['volume', 'create', 'wal', '--size', '1GiB']);
  cluster.fail('updateVolume', 'UNAVAILABLE', 'no quorum');
  const { exitCode, stderr } = await run(cluster, ['rebuild', 'pause', '--all']);
  t.same([exitCode, stderr], [9, 'error: rebuilds of 0 volumes paused, of 2 not: no quorum\n']);
  t.equal(methods(cluster).filter((method) => method === 'updateVolume').length, 2);
});

t.test('a change carries the version that was seen, and the id of the request', async (t) => {
  const cluster = await clusterWithDb();
  const argv = ['volume', 'detach', 'db', '--if-version', '17', '--request-id', 'job-4'];
  t.equal((await run(cluster, argv)).exitCode, 0);
  t.match(requestOf(cluster, 'detachVolume'), { resourceVersion: 17, requestId: 'job-4' });
  t.notOk(
    cluster.calls.some(
      ({ method, request }) => method === 'getVolume' && JSON.stringify(request).includes('17'),
    ),
  );
  cluster.calls = [];
  await run(cluster, ['volume', 'create', 'more', '--size', '1GiB', '--request-id', 'job-5']);
  t.match(requestOf(cluster, 'createVolume'), { name: 'more', requestId: 'job-5' });
  const error = new StorError('CONFLICT', 'it has changed', { details: { resourceVersion: '9' } });
  cluster.failures.set('updateVolume', error);
  const lost = await run(cluster, [
    ...['volume', 'update', 'db', '--shared', '--if-version', '3', '-o', 'json'],
  ]);
  t.equal(lost.exitCode, 8);
  t.match(lost.stderr, /"code":"CONFLICT".*"resourceVersion":"9"/);
  for (const bad of ['0', 'x', '-1', '1.5', '']) {
    const { exitCode, stderr } = await run(cluster, [
      'volume',
      'detach',
      'db',
      '--if-version',
      bad,
    ]);
    t.equal(exitCode, 2, bad);
    t.match(stderr, /--if-version .* is not valid/);
  }
});
