// Snapshots over NBD with real clients: read-only while the volume is written, on any node, and what
// changed between two of them is all that a copy has to take.
import { randomBytes } from 'node:crypto';
import { copyFileSync, openSync, readFileSync, writeSync, closeSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { mustRun, runCommand } from '../../benchmarks/src/harness/run-command.ts';
import { NbdClient } from '../../packages/nbd-client-js/src/index.ts';
import { startCluster } from '../support/cluster.ts';
import { needs } from '../support/needs.ts';

const MiB = 1024 * 1024;
const sizeBytes = 48 * MiB;
const chunkBytes = 256 * 1024;

interface MapEntry {
  offset: number;
  length: number;
  type: number;
}

async function mapOf(uri: string, context: string): Promise<MapEntry[]> {
  const { stdout } = await mustRun('nbdinfo', [`--map=${context}`, '--json', uri]);
  return JSON.parse(stdout) as MapEntry[];
}

t.test('snapshots as exports', async (t) => {
  const cluster = await startCluster(t, { nodes: 3 });
  const dir = t.testdir();
  await cluster.must('volume', 'create', 'db', '--size', String(sizeBytes), '--replicas', '2');
  const client = await NbdClient.connect({ uri: cluster.tcpUri(0, 'db') });
  t.teardown(() => client.close());
  const truth = Buffer.alloc(sizeBytes);
  const put = async (offset: number, bytes: Buffer): Promise<void> => {
    bytes.copy(truth, offset);
    await client.write(offset, bytes);
  };
  await put(0, randomBytes(8 * MiB));
  await put(20 * MiB + 4096, randomBytes(3 * MiB));
  await cluster.must('snapshot', 'create', 'db@a');
  const a = Buffer.from(truth);
  // an overwrite, new data, a trim of whole chunks, and a part of a chunk
  await put(MiB, randomBytes(100_000));
  await put(40 * MiB, randomBytes(MiB));
  await client.trim(4 * MiB, MiB);
  truth.fill(0, 4 * MiB, 5 * MiB);
  await put(21 * MiB + 512, randomBytes(512));
  await cluster.must('snapshot', 'create', 'db@b');
  const b = Buffer.from(truth);
  await put(0, randomBytes(MiB));

  await t.test('every node serves them, read-only, beside the volume in use', async (t) => {
    for (const node of [0, 1, 2]) {
      for (const [name, wanted] of [
        ['db@a', a],
        ['db@b', b],
      ] as const) {
        const reader = await NbdClient.connect({ uri: cluster.tcpUri(node, name) });
        const found = await reader.read(0, 32 * MiB);
        t.ok(found.equals(wanted.subarray(0, 32 * MiB)), `${name} on n${node + 1}`);
        await t.rejects(reader.write(0, Buffer.alloc(512)), { code: 'IO', errnoName: 'EPERM' });
        await reader.disconnect();
      }
    }
    t.equal(await cluster.primary('db'), 0, 'the primary stays where it was');
    const out = join(dir, 'a.img');
    await cluster.must('volume', 'export', 'db@a', out);
    t.ok(readFileSync(out).equals(a), 'storctl volume export');
  });

  await t.test('nbdinfo and nbdcopy', async (t) => {
    if (!needs(t, 'nbdinfo', 'libnbd-bin')) return;
    const facts = await mustRun('nbdinfo', ['--json', cluster.tcpUri(1, 'db@b')]);
    t.match(JSON.parse(facts.stdout).exports[0], {
      'export-size': sizeBytes,
      is_read_only: true,
      can_multi_conn: true,
      contexts: ['base:allocation', 'stor:dirty-since-a', 'stor:dirty-since-b'],
    });
    const list = await mustRun('nbdinfo', ['--list', '--json', cluster.tcpUri(1, '')]);
    const { exports } = JSON.parse(list.stdout) as { exports: Record<string, string>[] };
    const names = exports.map((found) => found['export-name']);
    t.same(names, ['db', 'db@a', 'db@b']);
    const out = join(dir, 'nbdcopy.img');
    await mustRun('nbdcopy', [cluster.unixUri(2, 'db@b'), out]);
    t.ok(readFileSync(out).equals(b), 'nbdcopy over a UNIX socket');
    const unknown = await runCommand('nbdinfo', [cluster.tcpUri(1, 'db@never')]);
    t.not(unknown.code, 0);
    t.match(unknown.stderr, /db@never/);
  });

  await t.test('only what is dirty turns a copy of one into the other', async (t) => {
    if (!needs(t, 'nbdinfo', 'libnbd-bin')) return;
    const uri = cluster.tcpUri(2, 'db@b');
    const copy = join(dir, 'copy.img');
    copyFileSync(join(dir, 'a.img'), copy);
    const reader = await NbdClient.connect({ uri });
    const file = openSync(copy, 'r+');
    let dirtyBytes = 0;
    for (const { offset, length, type } of await mapOf(uri, 'stor:dirty-since-a')) {
      if (type === 0) continue;
      dirtyBytes += length;
      writeSync(file, await reader.read(offset, length), 0, length, offset);
    }
    await reader.disconnect();
    closeSync(file);
    t.ok(readFileSync(copy).equals(b), 'the copy is db@b');
    t.ok(dirtyBytes > 0 && dirtyBytes <= 12 * chunkBytes, `${dirtyBytes} bytes were copied`);
    t.match(await mapOf(uri, 'stor:dirty-since-b'), [{ offset: 0, length: sizeBytes, type: 0 }]);
    // the volume itself has changed since b, and nothing else of it
    const live = await mapOf(cluster.tcpUri(0, 'db'), 'stor:dirty-since-b');
    t.same(
      live.map(({ offset, length, type }) => [offset, length, type]),
      [
        [0, MiB, 1],
        [MiB, sizeBytes - MiB, 0],
      ],
    );
    const holes = await mapOf(uri, 'base:allocation');
    t.ok(
      holes.some(
        ({ offset, length, type }) =>
          type === 3 && offset <= 30 * MiB && offset + length > 30 * MiB,
      ),
    );
  });

  await t.test('a replica dies, and a snapshot goes, under a reader', async (t) => {
    const reader = await NbdClient.connect({ uri: cluster.tcpUri(2, 'db@b') });
    const { status } = await cluster.inspect('db');
    const holder = status.replicas.map(({ node }) => cluster.indexOfNode(node));
    const victim = holder.find((index) => index !== 0 && index !== 2) ?? 1;
    await cluster.agent(victim).kill9();
    const found = await reader.read(0, 32 * MiB);
    t.ok(found.equals(b.subarray(0, 32 * MiB)), 'the other replica has it');
    cluster.agent(victim).start();
    await cluster.agent(victim).waitReady();
    await cluster.waitHealth('db', 'healthy');
    await cluster.must('snapshot', 'rm', 'db@b', '-y');
    let outcome: unknown = null;
    // gone on every node that has a replica, one after the other
    for (let round = 0; outcome === null && round < 1_000; round++) {
      outcome = await reader.read(0, MiB).then(
        (bytes) => (bytes.equals(b.subarray(0, MiB)) ? null : 'other bytes'),
        (error: { errno: number; code: string }) => `${error.code} ${error.errno}`,
      );
    }
    // an error would be taken for a bad disk; who connects again is told what is the matter
    t.equal(outcome, 'DISCONNECTED 0');
    await t.rejects(NbdClient.connect({ uri: cluster.tcpUri(2, 'db@b') }), {
      code: 'REFUSED',
      message: /db@b/,
    });
    const still = await NbdClient.connect({ uri: cluster.tcpUri(1, 'db@a') });
    t.ok((await still.read(0, 32 * MiB)).equals(a.subarray(0, 32 * MiB)), 'db@a is whole');
    await still.disconnect();
  });
});
