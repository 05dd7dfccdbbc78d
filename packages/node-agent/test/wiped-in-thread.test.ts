// A node of a cluster whose configuration names all members, and that has lost its data folder.
import { MemoryKeyValueDisk } from '@stor/control-plane/testing';
import { loadServices } from '@stor/protocol';
import { FaultyFiles, SeededRandom } from '@stor/runtime/testing';
import t from 'tap';
import { ThreadCluster } from './thread-cluster.ts';

t.test('a voter that has lost its folder does not vote again under its old id', async (t) => {
  const cluster = new ThreadCluster(5, await loadServices());
  // the last one starts for the first time when the others have long begun: it is no lost one
  await Promise.all([0, 1].map((i) => cluster.start(cluster.node(i))));
  const api = cluster.api();
  const disks = async (): Promise<number> => (await cluster.during(api.listDisks({}))).disks.length;
  await cluster.until(async () => (await disks()) === 2);
  const late = cluster.node(2);
  await cluster.start(late);
  await cluster.until(async () => (await disks()) === 3);
  cluster.kill(late);
  await cluster.start(late);
  t.ok(late.agent, 'with its folder it comes back');

  cluster.kill(late);
  const random = new SeededRandom(6);
  late.files = new FaultyFiles({ seed: 6 });
  late.files.defer = (step) => void cluster.clock.after(0.05, step);
  late.logs = new MemoryKeyValueDisk({
    random: () => random.next(),
    schedule: (run) => void cluster.clock.after(0.5, run),
  });
  await t.rejects(cluster.start(late), {
    code: 'FOREIGN_DATA',
    message: /node n3 .* has taken part in this cluster, as 10\.0\.0\.1:10 knows, .*--replace/,
  });
  t.notOk(late.logs.exists('/data/raft/log'), 'it has not begun');
  cluster.kill(late);
  await cluster.during(api.close());
  await cluster.close();
});
