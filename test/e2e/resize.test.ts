// A volume grows under load: within its last segment and by others. Its clients go on, new ones see the
// new size, and what is written behind the old end is on every replica.
import { join } from 'node:path';
import t from 'tap';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { readAllReplicas } from '../../benchmarks/src/scenarios/replicas.ts';
import { verifyThroughClient } from '../../benchmarks/src/verify/verify-volume.ts';
import { VerifyingWriter } from '../../benchmarks/src/verify/verifying-writer.ts';
import { NbdClient } from '../../packages/nbd-client-js/src/index.ts';
import { startCluster } from '../support/cluster.ts';

const MiB = 1024 * 1024;
const segmentBytes = 8 * MiB;
/** ends in the middle of a segment, of a region and of a chunk */
const firstBytes = 13 * MiB + 36 * 1024;
const thenBytes = 42 * MiB + 4 * 1024;

t.test('a volume grows while it is written', async (t) => {
  const cluster = await startCluster(t, { nodes: 3 });
  const shape = ['--size', String(firstBytes), '--segment-size', String(segmentBytes)];
  await cluster.must('volume', 'create', 'db', ...shape);
  const uri = cluster.tcpUri(0, 'db');
  const client = await NbdClient.connect({ uri });
  const stop = new AbortController();
  const write = (to: NbdClient, name: string, offset: number, length: number) => {
    const logPath = join(cluster.dir, `${name}.log`);
    const writer = new VerifyingWriter({
      clients: [to],
      logPath,
      offset,
      length,
      seed: 7,
      depth: 8,
      writes: Infinity,
      flushEvery: 40,
      rate: 400,
      readShare: 0.2,
      signal: stop.signal,
    });
    const running = writer.run();
    const goesOn = async (): Promise<void> => {
      const before = writer.progress().acknowledged;
      await waitFor('the writer to go on', async () =>
        writer.progress().acknowledged > before + 200 ? true : null,
      );
    };
    return { logPath, running, goesOn };
  };
  const old = write(client, 'old', 0, firstBytes);
  await old.goesOn();

  await cluster.must('volume', 'resize', 'db', String(thenBytes));
  await old.goesOn();
  t.equal(client.sizeBytes, firstBytes, 'a connection has one size');
  const larger = await NbdClient.connect({ uri });
  t.equal(larger.sizeBytes, thenBytes);
  const behind = await larger.read(firstBytes, 64 * 1024);
  t.ok(
    behind.every((byte) => byte === 0),
    'what is new is empty',
  );
  const added = write(larger, 'new', firstBytes, thenBytes - firstBytes);
  await added.goesOn();
  const { status } = await cluster.inspect('db');
  t.equal(new Set(status.replicas.map(({ segment }) => segment)).size, 6);

  const shrunk = await cluster.storctl('volume', 'resize', 'db', '1MiB');
  t.match(shrunk.stderr, /cannot become smaller/);

  // one that is away while it grows once more is made as large when it is back
  await cluster.agent(2).kill9();
  await old.goesOn();
  await cluster.must('volume', 'resize', 'db', String(thenBytes + MiB));
  await added.goesOn();
  await cluster.start();
  await cluster.waitHealth('db', 'healthy');

  stop.abort();
  for (const { running } of [old, added]) {
    t.match(await running, { ended: 'stopped', errors: [], wrongReads: [] });
  }
  t.match(await verifyThroughClient(old.logPath, client), { wrong: 0, torn: 0, problems: [] });
  t.match(await verifyThroughClient(added.logPath, larger), { wrong: 0, torn: 0, problems: [] });
  await Promise.all([client.disconnect(), larger.disconnect()]);
  await cluster.kill9All();
  await cluster.start();
  const read = await readAllReplicas(cluster, 'db', t.testdir());
  for (const replica of read.replicas) {
    const name = `segment ${replica.segment} on ${replica.node}`;
    t.equal(replica.contentHash, read.segmentHashes[replica.segment], name);
    t.same(replica.problems, [], name);
  }
});
