import { join } from 'node:path';
import { fioArguments, parseFioResult, takeWriteTimes, type FioResult } from '../fio/fio.ts';
import { runCommand } from '../harness/run-command.ts';
import type { TestCluster } from '../harness/test-cluster.ts';
import { waitFor } from '../harness/wait-for.ts';
import { WriterProcess } from '../harness/writer-process.ts';
import { readAckLog } from '../verify/ack-log.ts';
import { countAcknowledged } from '../verify/ack-history.ts';
import type { WriterSummary } from '../verify/verifying-writer.ts';

const MiB = 1024 * 1024;

/** The volume of this scenario: fio has the first half, the verifying writer the second. */
export const killSecondaryVolume = {
  name: 'under-fire',
  sizeBytes: 128 * MiB,
  fioBytes: 64 * MiB,
};

/** fio writes each block of its half once; this rate makes that last about eight seconds. */
const fioIops = 2_000;
const writerRate = 400;
/** The writer must get this many answers while the victim is dead before the victim returns. */
export const writesWhileDead = 600;

/**
 * While clients work a resync may have no more than 4 MiB/s: 128 MiB that are compared, and 64 that are copied,
 * take 48 s then (ms).
 */
const healthyDeadlineMs = 120_000;

export interface KillCycle {
  victim: string;
  victimWasLeader: boolean;
  fioError: number;
  fioOutput: string;
  fioWrites: number;
  /** of them, between the kill and the start of the new process */
  fioWritesWhileDead: number;
  writerWrites: number;
  writerWritesWhileDead: number;
  /** from the start of the new process until the volume was healthy again */
  returnMs: number;
}

export interface KillSecondaryResult {
  cycles: KillCycle[];
  writer: WriterSummary;
  logPath: string;
  /** seed of the last fio run, to verify its half in an image */
  lastSeed: number;
}

/** What fio ran with; a verification of the same half needs the same values. */
export function fioVerifyOptions(seed: number): Record<string, string> {
  return {
    rw: 'randwrite',
    bs: '4k',
    iodepth: '16',
    size: String(killSecondaryVolume.fioBytes),
    verify: 'crc32c',
    // Another seed in each cycle: else the data of an earlier cycle would pass.
    randseed: String(seed),
  };
}

/**
 * Kills secondaries with -9 one after another, the Raft leader first, and starts them again, while
 * fio (with verification) and the verifying writer write to the volume. Leaves the cluster running.
 */
export async function killSecondaries(
  cluster: TestCluster,
  cycles: number,
): Promise<KillSecondaryResult> {
  const { name, sizeBytes, fioBytes } = killSecondaryVolume;
  await cluster.must('volume', 'create', name, '--size', String(sizeBytes), '--replicas', '3');
  const leader = await cluster.leader();
  const primary = (leader + 1) % cluster.agents.length;
  const victims = [leader, (leader + 2) % cluster.agents.length];
  const logPath = join(cluster.dir, 'under-fire.log');
  const writer = new WriterProcess({
    uri: cluster.unixUri(primary, name),
    logPath,
    offset: fioBytes,
    length: sizeBytes - fioBytes,
    seed: 7,
    depth: 8,
    connections: 2,
    flushEvery: 500,
    rate: writerRate,
  });
  const result: KillCycle[] = [];
  const firstSeed = 1_000;
  try {
    for (let cycle = 0; cycle < cycles; cycle += 1) {
      const victim = victims[cycle % victims.length] ?? 0;
      result.push(await runCycle(cluster, primary, victim, firstSeed + cycle, writer, logPath));
    }
    return {
      cycles: result,
      writer: await writer.stop(),
      logPath,
      lastSeed: firstSeed + cycles - 1,
    };
  } finally {
    await writer.kill();
  }
}

async function runCycle(
  cluster: TestCluster,
  primary: number,
  victim: number,
  seed: number,
  writer: WriterProcess,
  logPath: string,
): Promise<KillCycle> {
  const { name } = killSecondaryVolume;
  const agent = cluster.agent(victim);
  const victimWasLeader = (await cluster.leader()) === victim;
  const startedMs = Date.now();
  const fio = startFio(cluster, primary, seed);
  await untilWriterGot(writer, writerRate);
  const killedMs = Date.now();
  await agent.kill9();
  await cluster.waitHealth(name, 'degraded');
  await untilWriterGot(writer, writesWhileDead);
  const returnedMs = Date.now();
  agent.start();
  await agent.waitReady();
  await cluster.waitHealth(name, 'healthy', healthyDeadlineMs);
  const healthyMs = Date.now();
  const { result: run, times } = await fio;
  const records = readAckLog(logPath);
  return {
    victim: agent.place.name,
    victimWasLeader,
    fioError: run.error,
    fioOutput: run.command.stderr,
    fioWrites: times.length,
    fioWritesWhileDead: times.filter((time) => time >= killedMs && time < returnedMs).length,
    writerWrites: countAcknowledged(records, startedMs),
    writerWritesWhileDead: countAcknowledged(records, killedMs, returnedMs),
    returnMs: healthyMs - returnedMs,
  };
}

async function untilWriterGot(writer: WriterProcess, writes: number): Promise<void> {
  const before = writer.acknowledged;
  await waitFor(
    `the writer to get ${writes} answers`,
    () => writer.acknowledged >= before + writes,
  );
}

async function startFio(
  cluster: TestCluster,
  primary: number,
  seed: number,
): Promise<{ result: FioResult; times: number[] }> {
  const logName = `under-fire-${seed}`;
  const command = await runCommand(
    'fio',
    fioArguments({
      uri: cluster.tcpUri(primary, killSecondaryVolume.name),
      dir: cluster.dir,
      options: {
        ...fioVerifyOptions(seed),
        rate_iops: String(fioIops),
        verify_fatal: '1',
        write_lat_log: logName,
        log_unix_epoch: '1',
      },
    }),
    { cwd: cluster.dir, timeoutMs: 120_000 },
  );
  return { result: parseFioResult(command), times: takeWriteTimes(cluster.dir, logName) };
}

/** Lets fio verify its half once more, in an image read from a replica's disk. */
export async function fioVerifyImage(
  imagePath: string,
  seed: number,
  dir: string,
): Promise<number> {
  const options = { ...fioVerifyOptions(seed), ioengine: 'psync', filename: imagePath };
  const result = await runCommand(
    'fio',
    [
      '--output-format=json',
      '--name=stor',
      `--aux-path=${dir}`,
      '--verify_only=1',
      '--verify_fatal=1',
      ...Object.entries(options).map(([option, value]) => `--${option}=${value}`),
    ],
    { cwd: dir },
  );
  return parseFioResult(result).error;
}

/** Share of all writes of both writers that fell between a kill and the return. */
export function shareWhileDead(cycles: readonly KillCycle[]): number {
  let all = 0;
  let dead = 0;
  for (const cycle of cycles) {
    all += cycle.fioWrites + cycle.writerWrites;
    dead += cycle.fioWritesWhileDead + cycle.writerWritesWhileDead;
  }
  return all === 0 ? 0 : dead / all;
}
