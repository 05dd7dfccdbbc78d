// Snapshots, rollbacks, clones and growth at random while agents are killed: copies that stock clients
// take of snapshots, and what is said to have changed between them, against a stupid model.
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { mustRun } from '../../benchmarks/src/harness/run-command.ts';
import { ReconnectingNbdClient } from '../../packages/nbd-client-js/src/index.ts';
import { SeededRandom } from '../../packages/runtime/src/testing/index.ts';
import { startCluster } from '../support/cluster.ts';
import { needs } from '../support/needs.ts';

const MiB = 1024 * 1024;
const chunkBytes = 256 * 1024;
const sectorBytes = 512;
/** Rounds of one run of the suite; set STOR_CHURN_ROUNDS to try more, STOR_FIRST_SEED for others. */
const rounds = Number(process.env['STOR_CHURN_ROUNDS'] ?? 2);
const seed = Number(process.env['STOR_FIRST_SEED'] ?? 1);

interface Snapshot {
  name: string;
  bytes: Buffer;
}

t.test('snapshots of a volume whose replicas die', async (t) => {
  if (!needs(t, 'nbdcopy', 'libnbd-bin')) return;
  const random = new SeededRandom(seed);
  const pick = (count: number): number => Math.floor(random.next() * count);
  const cluster = await startCluster(t, { nodes: 3 });
  const dir = t.testdir();
  // no whole chunks
  let truth = Buffer.alloc(24 * MiB + 5 * 4096);
  await cluster.must('volume', 'create', 'db', '--size', String(truth.length), '--replicas', '3');
  const addresses = [0, 1, 2].map((node) => cluster.tcpUri(node, 'db'));
  const open = (): Promise<ReconnectingNbdClient> =>
    ReconnectingNbdClient.connect({ addresses, giveUpMs: 120_000 });
  let client = await open();
  t.teardown(() => client.close());

  const change = async (): Promise<void> => {
    const sectors = truth.length / sectorBytes;
    const offset = pick(sectors) * sectorBytes;
    const dice = random.next();
    const most = dice < 0.5 ? 4 * sectorBytes : 3 * chunkBytes;
    const wanted = (1 + pick(most / sectorBytes)) * sectorBytes;
    const length = Math.min(wanted, truth.length - offset);
    if (dice < 0.8) {
      const bytes = randomBytes(length);
      bytes.copy(truth, offset);
      await client.write(offset, bytes);
    } else {
      truth.fill(0, offset, offset + length);
      await client.writeZeroes(offset, length);
    }
    if (random.next() < 0.1) await client.flush();
  };
  const taken: Snapshot[] = [];
  let count = 0;
  const take = async (): Promise<void> => {
    const name = `s${++count}`;
    await cluster.must('snapshot', 'create', `db@${name}`, '--timeout', '2m');
    taken.push({ name, bytes: Buffer.from(truth) });
  };
  const read = async (uri: string, name: string): Promise<Buffer> => {
    const out = join(dir, name);
    await mustRun('nbdcopy', [uri, out]);
    return readFileSync(out);
  };
  const compare = async ({ name, bytes }: Snapshot, node: number): Promise<void> => {
    const found = await read(cluster.tcpUri(node, `db@${name}`), `${name}.img`);
    t.ok(found.subarray(0, bytes.length).equals(bytes), `${name} from node ${node}`);
  };
  /** Whatever differs is said to have changed. */
  const diff = async (from: Snapshot, to: Snapshot): Promise<void> => {
    const context = `stor:dirty-since-${from.name}`;
    const uri = cluster.tcpUri(pick(3), `db@${to.name}`);
    const { stdout } = await mustRun('nbdinfo', [`--map=${context}`, '--json', uri]);
    const map = JSON.parse(stdout) as { offset: number; length: number; type: number }[];
    for (const { offset, length, type } of map) {
      if (type !== 0) continue;
      const ours = from.bytes.subarray(offset, offset + length);
      const theirs = to.bytes.subarray(offset, offset + length);
      const isEqual = theirs.subarray(0, ours.length).equals(ours) && isZero(theirs, ours.length);
      if (!isEqual) t.fail(`${from.name} to ${to.name}: ${offset}+${length} is called clean`);
    }
    t.pass(`${from.name} to ${to.name}`);
  };
  const isUp = [true, true, true];
  const kill = async (): Promise<void> => {
    const victim = pick(3);
    if (isUp.includes(false)) return;
    isUp[victim] = false;
    await cluster.agent(victim).kill9();
    t.comment(`agent ${victim} was killed`);
  };
  const restart = async (): Promise<void> => {
    const victim = isUp.indexOf(false);
    if (victim < 0) return;
    cluster.agent(victim).start();
    await cluster.agent(victim).waitReady();
    isUp[victim] = true;
  };

  for (let round = 0; round < rounds; round++) {
    for (let n = 0; n < 60; n++) await change();
    await take();
    await kill();
    for (let n = 0; n < 40; n++) await change();
    await take();
    await restart();
    // a copy while the volume is written, and a replica is lost and filled
    let isOver = false;
    const any = taken[pick(taken.length)];
    const copied = any && compare(any, pick(3)).finally(() => (isOver = true));
    for (let n = 0; n < 30 || !isOver; n++) await change();
    await copied;
    const dice = pick(4);
    if (dice === 0) {
      await cluster.waitHealth('db', 'healthy');
      const to = taken[pick(taken.length)];
      if (!to) continue;
      await client.close();
      const before = { name: '', bytes: Buffer.from(truth) };
      const stdout = await cluster.must('volume', 'rollback', `db@${to.name}`, '-y', '--force');
      before.name = /before-rollback-[0-9-]+/.exec(stdout)?.[0] ?? '';
      t.comment(`rolled back to ${to.name}: ${stdout.trim()}`);
      if (before.name !== '') taken.push(before);
      const grown = Buffer.alloc(truth.length);
      to.bytes.copy(grown);
      truth = grown;
      client = await open();
    } else if (dice === 1) {
      const larger = Buffer.alloc(truth.length + 2 * chunkBytes + 4096);
      truth.copy(larger);
      await cluster.must('volume', 'resize', 'db', String(larger.length));
      await client.close();
      truth = larger;
      client = await open();
      t.equal(client.sizeBytes, truth.length);
    } else if (dice === 2) {
      const from = taken[pick(taken.length)];
      if (!from) continue;
      await cluster.waitHealth('db', 'healthy');
      await cluster.must('volume', 'clone', `db@${from.name}`, `clone${round}`);
      taken.splice(taken.indexOf(from), 1);
      await cluster.must('snapshot', 'rm', `db@${from.name}`, '-y');
      const clone = await read(cluster.tcpUri(pick(3), `clone${round}`), 'clone.img');
      t.ok(clone.equals(from.bytes), `a clone of ${from.name}, which is deleted`);
    } else {
      const [gone] = taken.splice(pick(taken.length), 1);
      if (gone) await cluster.must('snapshot', 'rm', `db@${gone.name}`, '-y');
    }
  }
  await restart();
  await cluster.waitHealth('db', 'healthy');
  const primary = (await cluster.primary('db')) ?? 0;
  const whole = await read(cluster.tcpUri(primary, 'db'), 'live.img');
  t.ok(whole.equals(truth), 'the volume');
  for (const snapshot of taken) await compare(snapshot, pick(3));
  for (let n = 1; n < taken.length; n++) {
    const [from, to] = [taken[pick(n)], taken[n]];
    if (from && to && from.bytes.length <= to.bytes.length) await diff(from, to);
  }
});

function isZero(bytes: Buffer, from: number): boolean {
  return bytes.subarray(from).every((byte) => byte === 0);
}
