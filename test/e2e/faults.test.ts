// Processes killed with -9 under load. The longer form of the same scenarios, with timings, is
// `pnpm accept skeleton`.
import t from 'tap';
import { killAllUnderLoad, killAllVolume } from '../../benchmarks/src/scenarios/kill-all.ts';
import {
  fioVerifyImage,
  killSecondaries,
  killSecondaryVolume,
  writesWhileDead,
} from '../../benchmarks/src/scenarios/kill-secondary.ts';
import { readAllReplicas } from '../../benchmarks/src/scenarios/replicas.ts';
import { runVerifier } from '../../benchmarks/src/harness/writer-process.ts';
import { startCluster } from '../support/cluster.ts';
import { needs } from '../support/needs.ts';

t.test('secondaries die and return under fio and the verifying writer', async (t) => {
  if (!needs(t, 'fio', 'fio')) return;
  const cluster = await startCluster(t);
  const result = await killSecondaries(cluster, 2);
  for (const cycle of result.cycles) {
    t.equal(cycle.fioError, 0, `fio through the death of ${cycle.victim}: ${cycle.fioOutput}`);
  }
  t.same(result.writer.errors, [], 'the writer saw no error');
  t.ok(
    result.cycles.some((cycle) => cycle.victimWasLeader),
    'a victim was the Raft leader',
  );
  t.equal(new Set(result.cycles.map((cycle) => cycle.victim)).size, 2, 'victims differ');
  // what share of all writes that is depends on the machine: `pnpm accept skeleton` measures it
  for (const { victim, writerWritesWhileDead, fioWritesWhileDead } of result.cycles) {
    t.ok(writerWritesWhileDead >= writesWhileDead, `the writer went on while ${victim} was dead`);
    t.ok(fioWritesWhileDead > 0, `fio went on while ${victim} was dead`);
  }

  const dir = t.testdir();
  const { replicas, servedHash } = await readAllReplicas(cluster, killSecondaryVolume.name, dir);
  t.equal(replicas.length, 3);
  for (const replica of replicas) {
    t.equal(replica.contentHash, servedHash, `${replica.node} holds what was served`);
    t.same(replica.problems, [], replica.node);
    t.equal(replica.badBlocks, 0, `${replica.node}: every block matches its checksum`);
    t.ok(replica.allocatedBytes >= killSecondaryVolume.fioBytes, `${replica.node} is not empty`);
    const verified = await runVerifier(result.logPath, { image: replica.imagePath });
    t.match(verified, { wrong: 0, torn: 0 }, `${replica.node} equals the writer's model`);
    t.ok(verified.stamped > 1_000);
  }
  const [first] = replicas;
  if (first) t.equal(await fioVerifyImage(first.imagePath, result.lastSeed, dir), 0);
});

t.test('all agents killed at once lose no acknowledged write', async (t) => {
  const cluster = await startCluster(t);
  const { writer, verified, logPath } = await killAllUnderLoad(cluster);
  t.equal(writer.ended, 'broken', 'it was writing when they died');
  t.ok(verified.acknowledgedSinceFlush >= 10_000, `${verified.acknowledgedSinceFlush} since FLUSH`);
  t.match(verified, { wrong: 0, torn: 0, problems: [] });
  const { replicas } = await readAllReplicas(cluster, killAllVolume.name, t.testdir());
  t.equal(
    new Set(replicas.map((replica) => replica.contentHash)).size,
    1,
    'replicas are identical',
  );
  for (const replica of replicas) {
    t.same(replica.problems, [], replica.node);
    t.equal(replica.badBlocks, 0, `${replica.node}: every block matches its checksum`);
    const again = await runVerifier(logPath, { image: replica.imagePath });
    t.match(again, { wrong: 0, torn: 0 }, `${replica.node} equals the writer's model`);
  }
});
