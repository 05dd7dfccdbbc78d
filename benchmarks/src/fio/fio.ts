import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describeResult, mustRun, runCommand, type CommandResult } from '../harness/run-command.ts';

/** How fio reaches what it measures: its engine and that engine's own options. */
export type FioTarget = Readonly<Record<string, string>>;

export function nbdTarget(uri: string): FioTarget {
  return { ioengine: 'nbd', uri };
}

export interface FioJob {
  /** an NBD URI stands for fio's nbd engine */
  uri: string | FioTarget;
  /** fio's own option values by name, for example { rw: 'randwrite', bs: '4k', iodepth: '32' } */
  options: Record<string, string>;
  /** variables of its environment, beside those of this process */
  env?: Readonly<Record<string, string>>;
  /** a folder for fio's files: state of verification, logs */
  dir: string;
  timeoutMs?: number;
  /** ends it at once; it counts as a job that printed no result */
  signal?: AbortSignal;
}

export interface FioDirection {
  ios: number;
  iops: number;
  bytesPerSecond: number;
  p50Us: number;
  p99Us: number;
  p999Us: number;
}

export interface FioResult {
  /** errno of the job; 0 is success. A failed verification gives EILSEQ (84). */
  error: number;
  read: FioDirection;
  write: FioDirection;
  command: CommandResult;
}

interface FioJsonDirection {
  total_ios: number;
  iops: number;
  bw_bytes: number;
  clat_ns: { percentile?: Record<string, number> };
}

function direction(json: FioJsonDirection): FioDirection {
  const percentile = json.clat_ns.percentile ?? {};
  return {
    ios: json.total_ios,
    iops: json.iops,
    bytesPerSecond: json.bw_bytes,
    p50Us: (percentile['50.000000'] ?? 0) / 1_000,
    p99Us: (percentile['99.000000'] ?? 0) / 1_000,
    p999Us: (percentile['99.900000'] ?? 0) / 1_000,
  };
}

/** Arguments of a fio run with JSON output. */
export function fioArguments(job: FioJob): string[] {
  const target = typeof job.uri === 'string' ? nbdTarget(job.uri) : job.uri;
  const options = { name: 'stor', ...target, ...job.options };
  return [
    '--output-format=json',
    `--aux-path=${job.dir}`,
    ...Object.entries(options).map(([name, value]) => `--${name}=${value}`),
  ];
}

/** Runs fio to its end. Throws when it printed no result; look at `error` otherwise. */
export async function runFio(job: FioJob): Promise<FioResult> {
  const command = await runCommand('fio', fioArguments(job), {
    cwd: job.dir,
    timeoutMs: job.timeoutMs ?? 300_000,
    ...(job.env ? { env: job.env } : {}),
    ...(job.signal ? { signal: job.signal } : {}),
  });
  return parseFioResult(command);
}

export function parseFioResult(command: CommandResult): FioResult {
  // fio prints notes before the JSON.
  const start = command.stdout.indexOf('{\n');
  if (start < 0) throw new Error(`fio printed no result: ${describeResult(command)}`);
  const json = JSON.parse(command.stdout.slice(start)) as {
    jobs: { error: number; read: FioJsonDirection; write: FioJsonDirection }[];
  };
  const [job] = json.jobs;
  if (!job) throw new Error(`fio ran no job: ${describeResult(command)}`);
  const error = job.error !== 0 ? job.error : command.code;
  return { error, read: direction(job.read), write: direction(job.write), command };
}

/** Writes the whole export once, in order, with requests of one size, then flushes. */
export async function prefill(
  uri: string | FioTarget,
  sizeBytes: number,
  bs: string,
  dir: string,
  env: Readonly<Record<string, string>> = {},
): Promise<void> {
  const result = await runFio({
    uri,
    dir,
    env,
    options: {
      rw: 'write',
      bs,
      iodepth: '32',
      size: String(sizeBytes),
      end_fsync: '1',
      refill_buffers: '1',
    },
  });
  if (result.error !== 0) throw new Error(`prefill failed: ${describeResult(result.command)}`);
  await mustRun('sync', []);
}

/**
 * Times (ms since 1970) of every write of a run that had `write_lat_log` and `log_unix_epoch` set;
 * the log is removed.
 */
export function takeWriteTimes(dir: string, logName: string): number[] {
  const path = join(dir, `${logName}_lat.1.log`);
  const times: number[] = [];
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    const [time, , ddir] = line.split(',');
    if (time !== undefined && ddir?.trim() === '1') times.push(Number(time));
  }
  for (const kind of ['lat', 'slat', 'clat']) {
    rmSync(join(dir, `${logName}_${kind}.1.log`), { force: true });
  }
  return times;
}
