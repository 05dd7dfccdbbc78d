import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { prefill } from '../fio/fio.ts';
import { checkoutRoot } from '../harness/checkout.ts';
import { parseOptions } from '../harness/parse-options.ts';
import { runCommand } from '../harness/run-command.ts';
import { TestCluster } from '../harness/test-cluster.ts';
import { runVerifier } from '../harness/writer-process.ts';
import { randomWriteQd32, runRounds, summarise } from '../measure/rounds.ts';
import { badInput } from '../scenarios/bad-input.ts';
import { CheckList } from '../scenarios/check-list.ts';
import { fullDisk } from '../scenarios/full-disk.ts';
import {
  killAllUnderLoad,
  killAllVolume,
  minAcknowledgedSinceFlush,
} from '../scenarios/kill-all.ts';
import {
  fioVerifyImage,
  killSecondaries,
  killSecondaryVolume,
  shareWhileDead,
} from '../scenarios/kill-secondary.ts';
import { readAllReplicas } from '../scenarios/replicas.ts';
import { QemuNbd } from '../servers/qemu-nbd.ts';
import { createStorVolume } from '../servers/stor-volume.ts';
import { freshClone } from '../scenarios/fresh-clone.ts';
import { AcceptReport, seconds } from '../harness/accept-report.ts';

const killCycles = 6;
const minShareWhileDead = 0.1;
const rounds = 5;
const runtimeSeconds = 5;
const benchBytes = 512 * 1024 * 1024;

const report = new AcceptReport();

async function withCluster(
  dir: string,
  run: (cluster: TestCluster) => Promise<void>,
): Promise<void> {
  const cluster = await TestCluster.create({ dir });
  try {
    await cluster.start();
    await run(cluster);
  } catch (error) {
    process.stderr.write(`${cluster.logTails()}\n`);
    throw error;
  } finally {
    await cluster.close();
  }
}

async function clients(): Promise<void> {
  const files = ['test/e2e/transcript.test.ts', 'test/e2e/clients.test.ts'];
  for (const file of files) {
    const tap = join(checkoutRoot(), 'node_modules/.bin/tap');
    const result = await runCommand(tap, ['--reporter=tap', file], {
      cwd: checkoutRoot(),
      env: { CI: 'true' },
      timeoutMs: 300_000,
    });
    if (result.code !== 0) process.stderr.write(result.stdout);
    const total = /# \{ (total: .*) \}/.exec(result.stdout)?.[1] ?? `exit code ${result.code}`;
    report.add(file, total, 'nothing fails or is skipped', result.code === 0);
  }
}

async function secondaries(dir: string): Promise<void> {
  await withCluster(dir, async (cluster) => {
    const { cycles, writer, logPath, lastSeed } = await killSecondaries(cluster, killCycles);
    const failed = cycles.filter((cycle) => cycle.fioError !== 0);
    for (const cycle of failed) process.stderr.write(cycle.fioOutput);
    report.add(
      'fio --verify writes through kill -9 of a secondary',
      `${cycles.length} cycles, ${failed.length + writer.errors.length} errors`,
      `${killCycles} cycles, 0 errors`,
      cycles.length >= killCycles && failed.length + writer.errors.length === 0,
    );
    const victims = cycles.map((c) => (c.victimWasLeader ? `${c.victim} (leader)` : c.victim));
    report.add(
      'victims',
      victims.join(' '),
      'they differ, one was the Raft leader',
      new Set(cycles.map((c) => c.victim)).size >= 2 && cycles.some((c) => c.victimWasLeader),
    );
    const share = shareWhileDead(cycles);
    report.add(
      'share of all writes between kill and return',
      `${(share * 100).toFixed(1)} % (healthy ${seconds(Math.max(...cycles.map((c) => c.returnMs)))} after the start at most)`,
      `at least ${minShareWhileDead * 100} %`,
      share >= minShareWhileDead,
    );
    const imageDir = mkdtempSync(join(dir, 'images-'));
    await compareReplicas(cluster, killSecondaryVolume.name, logPath, imageDir);
    const fio = await fioVerifyImage(
      join(imageDir, `${killSecondaryVolume.name}-n1.img`),
      lastSeed,
      imageDir,
    );
    report.add('fio verifies the image of a replica', `error ${fio}`, 'error 0', fio === 0);
  });
}

/** Stops the agents and reads the replicas from disk. */
async function compareReplicas(
  cluster: TestCluster,
  volume: string,
  logPath: string,
  imageDir: string,
): Promise<void> {
  const { replicas, servedHash } = await readAllReplicas(cluster, volume, imageDir);
  const hashes = new Set(replicas.map((replica) => replica.contentHash));
  const bad = replicas.reduce(
    (sum, replica) => sum + replica.badBlocks + replica.problems.length,
    0,
  );
  const smallest = Math.min(...replicas.map((replica) => replica.allocatedBytes));
  report.add(
    `${volume}: replicas read from disk`,
    `${replicas.length} replicas, ${hashes.size} content(s), >= ${smallest >> 20} MiB, ${bad} bad sums`,
    '3 replicas, 1 content (the served one), not empty',
    replicas.length === 3 &&
      hashes.size === 1 &&
      hashes.has(servedHash) &&
      bad === 0 &&
      smallest > 0,
  );
  let wrong = 0;
  let stamped = 0;
  for (const { imagePath } of replicas) {
    const verified = await runVerifier(logPath, { image: imagePath });
    wrong += verified.wrong + verified.torn;
    stamped = verified.stamped;
  }
  report.add(
    `${volume}: replicas against the writer's model`,
    `${wrong} wrong, ${stamped} stamped sectors`,
    '0 wrong, not empty',
    wrong === 0 && stamped > 0,
  );
}

async function allKilled(dir: string): Promise<void> {
  await withCluster(dir, async (cluster) => {
    const { verified, logPath } = await killAllUnderLoad(cluster);
    for (const problem of verified.problems) process.stderr.write(`${problem}\n`);
    report.add(
      'all three killed with -9 under load',
      `${verified.acknowledgedSinceFlush} acknowledged since FLUSH, ${verified.wrong + verified.torn} lost`,
      `at least ${minAcknowledgedSinceFlush}, 0 lost`,
      verified.acknowledgedSinceFlush >= minAcknowledgedSinceFlush &&
        verified.wrong + verified.torn === 0,
    );
    await compareReplicas(cluster, killAllVolume.name, logPath, mkdtempSync(join(dir, 'images-')));
  });
}

async function speed(dir: string): Promise<void> {
  await withCluster(dir, async (cluster) => {
    const qemu = await QemuNbd.start(dir, benchBytes);
    try {
      const servers = [await createStorVolume(cluster, 'bench', benchBytes, 3), qemu];
      for (const server of servers) await prefill(server.uri, benchBytes, '4k', dir);
      const samples = await runRounds({
        servers,
        workloads: [randomWriteQd32],
        rounds,
        runtimeSeconds,
        sizeBytes: benchBytes,
        dir,
        onSample: (s) =>
          process.stderr.write(`round ${s.round} ${s.server}: ${s.iops.toFixed(0)} IOPS\n`),
      });
      const stor = summarise(samples, randomWriteQd32.name, 'stor-3');
      const yardstick = summarise(samples, randomWriteQd32.name, 'qemu-nbd');
      const ratio = stor.iops.median / yardstick.iops.median;
      report.add(
        `${randomWriteQd32.name}: 3 replicas against one qemu-nbd`,
        `${stor.iops.median.toFixed(0)} / ${yardstick.iops.median.toFixed(0)} IOPS = ${ratio.toFixed(2)}x`,
        `at least 1.00x (medians of ${rounds} rounds of ${runtimeSeconds} s)`,
        ratio >= 1,
      );
    } finally {
      await qemu.close();
    }
  });
}

async function refusals(dir: string): Promise<void> {
  const checks = new CheckList();
  await withCluster(join(dir, 'refusals'), (cluster) => badInput(cluster, checks));
  await fullDisk(join(dir, 'full-disk'), checks);
  for (const { name, problem, skipped } of checks.results) {
    const value = skipped === null ? (problem ?? 'refused as documented') : `skipped: ${skipped}`;
    report.add(
      name,
      value,
      'clear message, exit code, nothing left',
      value === 'refused as documented',
    );
  }
}

const parts: Record<string, (dir: string) => Promise<void>> = {
  clone: (dir) => freshClone(dir, report),
  clients,
  secondaries,
  'all-killed': allKilled,
  speed,
  refusals,
};

async function main(): Promise<number> {
  const usage = `usage: npm run accept -- skeleton [PART...]
Shows what is promised of a whole cluster on loopback.

  parts      ${Object.keys(parts).join(', ')}; default: all`;
  const { positionals } = parseOptions(usage, { allowPositionals: true });
  const unknown = positionals.filter((name) => !(name in parts));
  if (unknown.length > 0) {
    process.stderr.write(
      `error: no part ${unknown.join(', ')}; there are: ${Object.keys(parts).join(', ')}\n`,
    );
    return 2;
  }
  for (const [name, run] of Object.entries(parts)) {
    if (positionals.length > 0 && !positionals.includes(name)) continue;
    const dir = mkdtempSync(join(tmpdir(), `stor-accept-${name}-`));
    await report.part(name, () => run(dir));
    rmSync(dir, { recursive: true, force: true });
  }
  return report.finish() ? 0 : 1;
}

process.exitCode = await main();
