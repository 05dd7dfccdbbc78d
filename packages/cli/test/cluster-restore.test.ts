import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { exitCodeOf, StorError, writeBackupText } from '@stor/protocol';
import t from 'tap';
import type { Test } from 'tap';
import type { ApiClient } from '../src/command-context.ts';
import { FakeCluster } from './support/fake-cluster.ts';
import { run } from './support/run.ts';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
const base64 = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64');

function backupOf(t: Test, clusterId: string): { path: string; text: string } {
  const head = { clusterId, clusterName: 'prod', revision: 41, takenAtMs: 1_790_000_000_000 };
  const node = (name: string) => ({
    key: `/stor/nodes/${name}`,
    value: base64({ name, addresses: { api: `${name}.example:17110` } }),
  });
  const lines = [node('n2'), node('n1'), { key: '/stor/volumes/v-1', value: base64({}) }];
  const text = writeBackupText(head, lines, sha256);
  const path = join(t.testdir({}), 'cluster.backup');
  writeFileSync(path, text);
  return { path, text };
}

/** No node answers. */
const nobody = (): ApiClient =>
  new Proxy({} as ApiClient, {
    get: (_target, method) => {
      if (method === 'then') return undefined;
      if (method === 'close') return () => {};
      return () => Promise.reject(new StorError('UNAVAILABLE', 'no node answers'));
    },
  });

t.test('a backup is verified without asking anybody', async (t) => {
  const cluster = new FakeCluster();
  const { path, text } = backupOf(t, 'c-0000000000000001');
  const found = await run(cluster, ['cluster', 'restore', path, '--check']);
  t.same([found.exitCode, cluster.calls.length], [0, 0]);
  t.match(found.stdout, /whole, SHA-256 right/);
  t.match(found.stdout, /3: 1 volumes, 0 snapshots, 0 disks/);
  t.match(found.stdout, /n1 \(n1.example:17110\), n2/);
  const json = await run(cluster, ['cluster', 'restore', path, '--check', '-o', 'json']);
  t.match(JSON.parse(json.stdout), { volumes: 1, hasSum: true, revision: 41 });
  for (const [bad, message] of [
    [text.replace('/stor/volumes/v-1', '/stor/volumes/v-2'), /SHA-256 is wrong/],
    [text.split('\n').slice(0, -2).join('\n'), /cut off/],
    ['hello', /line 1 is not JSON/],
  ] as const) {
    writeFileSync(path, bad);
    const refused = await run(cluster, ['cluster', 'restore', path, '--check']);
    t.equal(refused.exitCode, exitCodeOf.INVALID_ARGUMENT);
    t.match(refused.stderr, message);
  }
  writeFileSync(path, text.replace(/,"sha256":"[0-9a-f]+"/, ''));
  const older = await run(cluster, ['cluster', 'restore', path, '--check']);
  t.match(older.stdout, /written without a checksum/);
  const none = await run(cluster, ['cluster', 'restore', `${path}.none`]);
  t.equal(none.exitCode, exitCodeOf.INVALID_ARGUMENT);
  t.match(none.stderr, /cannot read the backup/);
});

t.test('the steps are told when the quorum is gone, and only then', async (t) => {
  const cluster = new FakeCluster();
  const { clusterId } = await cluster.api().getClusterStatus({});
  const { path } = backupOf(t, clusterId);
  const alive = await run(cluster, ['cluster', 'restore', path]);
  t.equal(alive.exitCode, exitCodeOf.FAILED_PRECONDITION);
  t.match(alive.stderr, /has a quorum, led by n1: nothing has to be restored/);
  cluster.status = { quorum: false, leader: null };
  const told = await run(cluster, ['cluster', 'restore', path]);
  t.equal(told.exitCode, 0, told.stderr);
  t.match(told.stdout, `stor-agent --data-dir DIR --name n1 … --restore ${path}`);
  t.match(told.stdout, '--name n2 … --join n1.example:17110 --token TOKEN --discard-store');
  const dark = await run(cluster, ['cluster', 'restore', path], { openApi: nobody });
  t.equal(dark.stdout, told.stdout, 'also when no node answers at all');
  const { path: foreign } = backupOf(t, 'c-ffffffffffffffff');
  const other = await run(cluster, ['cluster', 'restore', foreign]);
  t.equal(other.exitCode, exitCodeOf.FOREIGN_DATA);
  t.match(other.stderr, /the backup is of cluster prod \(c-ffffffffffffffff\)/);
});
