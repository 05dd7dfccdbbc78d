import t from 'tap';
import { defaultPolicy } from '@stor/protocol';
import { BlockLoad } from './block-load.ts';
import { ExportCluster, type ExportNode } from './export-cluster.ts';
import { until } from './nbd-harness.ts';

const blockBytes = 4_096;

t.test('requests that wait for a limit survive every handover', async (t) => {
  const cluster = await ExportCluster.start(t, 3);
  cluster.qos = { iops: 30 };
  const client = await cluster.node(1).client(t);
  const load = new BlockLoad(client, 0, 64, Math.random);
  const running = load.run(16);
  let waited = 0;
  const move = async (): Promise<void> => {
    for (let index = 0; index < 6; index++) {
      const before = load.done;
      // a new bucket has a few to begin with
      await until(() => load.done > before + 40);
      const reports = cluster.nodes.flatMap((node) => node.exports.qosReports());
      waited += reports.reduce((sum, { throttledRequests }) => sum + throttledRequests.limit, 0);
      const others = cluster.nodes.filter((node) => node !== cluster.holder?.node);
      await cluster.movePrimary(others[index % others.length] as ExportNode);
    }
  };
  await Promise.race([running, move()]);
  load.stop();
  await running;
  await load.check();
  t.ok(waited > 100, `${waited} requests had to wait`);
  t.equal(cluster.epoch, 7);
});

t.test('new settings reach what waits; a detach ends it', async (t) => {
  const cluster = await ExportCluster.start(t, 1);
  // one in 100 s of the cluster's clock
  cluster.qos = { writeIops: 0.01 };
  const node = cluster.node(1);
  const client = await node.client(t);
  const waiting = (): number => node.exports.qosReports()[0]?.queued ?? 0;
  const write = (index: number): Promise<unknown> =>
    client.write(index * blockBytes, Buffer.alloc(blockBytes, index + 1));
  await write(0);
  const asked = [1, 2, 3].map(write);
  await until(() => waiting() === 3);
  await client.flush();
  t.equal((await client.read(0, blockBytes))[0], 1, 'reads and FLUSH pass them');
  const { epoch } = cluster.primary;
  const policy = defaultPolicy(1);
  const settings = { volumeId: 'v-1', resourceVersion: 1, replicas: 1, policy, segments: [] };
  node.exports.updateVolume({ ...settings, epoch: epoch + 1, qos: {} });
  t.equal(waiting(), 3, 'of another epoch');
  node.exports.updateVolume({ ...settings, epoch, resourceVersion: 2, qos: {} });
  await Promise.all(asked);
  t.equal((await client.read(3 * blockBytes, blockBytes))[0], 4);
  node.exports.updateVolume({
    ...settings,
    epoch,
    resourceVersion: 3,
    qos: { writeIops: 0.01 },
  });
  const refused = [0, 1, 2].map((index) =>
    write(index).then(
      () => 'done',
      () => 'refused',
    ),
  );
  await until(() => waiting() === 2);
  await node.exports.detach('v-1', epoch, false);
  t.same((await Promise.all(refused)).sort(), ['done', 'refused', 'refused']);
  t.same(node.exports.qosReports(), []);
});
