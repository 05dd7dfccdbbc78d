import t from 'tap';
import { StorError } from '@stor/protocol';
import type { Volume, WatchEvent } from '@stor/protocol';
import { FakeClock } from '@stor/runtime/testing';
import { FakeCluster, startMs } from './support/fake-cluster.ts';
import { fakeVolume } from './support/fake-volume.ts';
import { run } from './support/run.ts';

function watch(cluster: FakeCluster, argv: string[], columns?: number) {
  const clock = new FakeClock(startMs);
  const controller = new AbortController();
  const written: string[] = [];
  const running = run(cluster, argv, {
    clock,
    signal: controller.signal,
    stdout: { write: (text) => written.push(text) },
    ...(columns === undefined ? {} : { columns: () => columns }),
  });
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  /** what is written about these events */
  const told = async (...events: (WatchEvent | Error)[]): Promise<string> => {
    while (cluster.watched.asked.length === 0) await turn();
    cluster.watched.tell(...events);
    for (let i = 0; i < 5; i++) await turn();
    clock.advance(1_000);
    return written.splice(0).join('');
  };
  return { told, stop: () => controller.abort(), running };
}

const synced: WatchEvent = { type: 'SYNCED', revision: 5 };
const about = (type: 'ADDED' | 'MODIFIED' | 'DELETED', object: Volume): WatchEvent => {
  return { type, kind: 'volume', id: object.metadata.id, object, revision: 6 };
};
const { nodes } = new FakeCluster();
const db = (): Volume =>
  fakeVolume(1, { name: 'db', sizeBytes: 2 ** 30, replicas: 2, labels: {} }, nodes);
const degraded = (): Volume => {
  const volume = db();
  volume.status.health = 'degraded';
  volume.status.message = 'node n2 is down';
  return volume;
};

t.test('a terminal is redrawn in place', async (t) => {
  const cluster = new FakeCluster();
  const { told, stop, running } = watch(cluster, ['volume', 'ls', '-w'], 200);
  const first = await told(about('ADDED', db()), synced);
  t.match(first, /^2026\S+, Ctrl-C ends\nNAME +SIZE +HEALTH .*\ndb +1GiB +healthy/);
  t.notMatch(first, /USED|SERVING/, 'no column of what no record says');
  const next = await told(about('MODIFIED', degraded()));
  t.match(next, /^\u001b\[3A\u001b\[J2026\S+, Ctrl-C ends\n.*\ndb +1GiB +degraded/);
  t.equal(next.split('\u001b[J').length, 2, 'once');
  t.notMatch(await told(about('DELETED', db())), /^db/m);
  stop();
  const { exitCode, stderr } = await running;
  t.same([exitCode, stderr], [130, '']);
  t.same(cluster.watched.asked[0]?.kinds, ['volume']);
});

t.test('without a terminal: what is there, then a line for each change', async (t) => {
  const cluster = new FakeCluster();
  const { told, stop, running } = watch(cluster, ['volume', 'ls', '--watch']);
  t.match(await told(about('ADDED', db()), synced), /^NAME .*\ndb .*\n$/);
  t.equal(
    await told({ type: 'BOOKMARK', revision: 6 }, about('MODIFIED', degraded())),
    '2026-01-02T03:04:06Z MODIFIED volume db: degraded, 2 of 2 replicas in sync, attached nowhere; node n2 is down\n',
  );
  t.equal(await told(about('DELETED', db())), '2026-01-02T03:04:07Z DELETED volume db\n');
  stop();
  t.equal((await running).exitCode, 130);
});

t.test('documents and names follow one another', async (t) => {
  for (const [form, pattern] of [
    [
      ['-o', 'json'],
      /^\{"type":"ADDED","id":"v-.*"kind":"volume","revision":6\}\n\{"type":"SYNCED","revision":5\}\n$/,
    ],
    [['-o', 'yaml'], /^---\ntype: ADDED\n[^]*---\ntype: SYNCED\nrevision: 5\n$/],
    [['-o', 'name'], /^db\n$/],
    [['-q'], /^v-\w+\n$/],
  ] as const) {
    const cluster = new FakeCluster();
    const { told, stop, running } = watch(cluster, ['volume', 'ls', '-w', ...form]);
    t.match(await told(about('ADDED', db()), synced), pattern, form.join(' '));
    stop();
    t.equal((await running).exitCode, 130);
  }
});

t.test('nodes, disks of one node, snapshots of one volume, one volume', async (t) => {
  const cluster = new FakeCluster();
  const listed = watch(cluster, ['node', 'ls', '-w']);
  const [node, other] = cluster.nodes;
  if (!node || !other) throw new Error('no nodes');
  const event = { type: 'ADDED' as const, kind: 'node' as const, revision: 1 };
  const text = await listed.told({ ...event, id: node.metadata.id, object: node }, synced);
  t.match(text, /^NAME .*\nn1 +up +leader/);
  listed.stop();
  await listed.running;

  const missing = await run(new FakeCluster(), ['disk', 'ls', '-w', '--node', 'n9']);
  t.equal(missing.exitCode, 3);
  const here = new FakeCluster();
  const disks = watch(here, ['disk', 'ls', '-w', '--node', 'n2']);
  const told = await disks.told(
    ...here.disks.map((object): WatchEvent => {
      return { type: 'ADDED', kind: 'disk', id: object.metadata.id, object, revision: 1 };
    }),
    synced,
  );
  t.match(told, /\/srv\/n2\/d1/);
  t.notMatch(told, /\/srv\/n1\/d1/);
  disks.stop();
  await disks.running;

  const absent = await run(new FakeCluster(), ['volume', 'inspect', 'gone', '-w']);
  t.equal(absent.exitCode, 3);
  const there = new FakeCluster();
  const volume = db();
  there.volumes = [volume];
  const one = watch(there, ['volume', 'inspect', 'db', '-w']);
  t.match(await one.told(about('ADDED', volume), synced), /^Name: +db\n/);
  t.equal(there.watched.asked[0]?.name, volume.metadata.id);
  one.stop();
  await one.running;

  const both = await run(new FakeCluster(), ['snapshot', 'ls', '-w', '--orphans']);
  t.equal(both.exitCode, 2);
});

t.test('a control plane that is away is said, other errors end it', async (t) => {
  const cluster = new FakeCluster();
  const { told, running } = watch(cluster, ['volume', 'ls', '-w']);
  await told(synced);
  const { onTrouble } = cluster.watched.asked[0] ?? {};
  onTrouble?.(new StorError('UNAVAILABLE', 'no node answers'));
  onTrouble?.(null);
  await told(new StorError('FAILED_PRECONDITION', 'it runs another version of Stor'));
  const { exitCode, stderr } = await running;
  t.equal(exitCode, 5);
  t.equal(stderr, 'not up to date: no node answers\nerror: it runs another version of Stor\n');
});

t.test('--timeout ends a watch as a timeout', async (t) => {
  const { exitCode } = await run(new FakeCluster(), ['node', 'ls', '-w', '--timeout', '20ms'], {
    clock: new FakeClock(),
  });
  t.equal(exitCode, 124);
});
