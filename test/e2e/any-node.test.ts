// Any one node may be dead: its volumes are served by another, and storctl works.
import t from 'tap';
import { killPrimary } from '../../benchmarks/src/scenarios/kill-primary.ts';
import { startCluster } from '../support/cluster.ts';

t.test('any one node may die', async (t) => {
  const cluster = await startCluster(t);
  const sizeBytes = 32 * 1024 * 1024;

  await t.test('the primary: a new connection to another node finds every write', async (t) => {
    await cluster.must(
      'volume',
      'create',
      'moving',
      '--size',
      String(sizeBytes),
      '--replicas',
      '3',
    );
    const { verified, primary } = await killPrimary(cluster, 'moving', sizeBytes, 1, 2);
    t.match(verified, { wrong: 0, torn: 0, problems: [] });
    t.ok(verified.acknowledged >= 2_000);
    t.equal(primary, 2, 'the other node is the primary now');
    cluster.agent(1).start();
    await cluster.agent(1).waitReady();
    await cluster.waitHealth('moving', 'healthy');
  });

  for (const index of [0, 1, 2]) {
    await t.test(`storctl works with n${index + 1} dead`, async (t) => {
      await cluster.agent(index).kill9();
      const status = await cluster.storctl('cluster', 'status', '-o', 'json');
      t.equal(status.code, 0, status.stderr);
      const name = `without-n${index + 1}`;
      const created = await cluster.storctl(
        'volume',
        'create',
        name,
        '--size',
        '8MiB',
        '--replicas',
        '2',
      );
      t.equal(created.code, 0, created.stderr);
      const listed = await cluster.must('volume', 'ls', '-o', 'name', '--no-headers');
      t.match(listed, name);
      t.match(JSON.parse(await cluster.must('volume', 'inspect', name, '-o', 'json')), {
        metadata: { name },
        status: { health: 'healthy' },
      });
      const removed = await cluster.storctl('volume', 'rm', name, '-y');
      t.equal(removed.code, 0, removed.stderr);
      cluster.agent(index).start();
      await cluster.agent(index).waitReady();
    });
  }
});
