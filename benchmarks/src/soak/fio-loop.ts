import { runFio } from '../fio/fio.ts';

/** What fio uses of the volume, from its start (bytes). */
export const fioBytes = 32 * 1024 * 1024;
const fioIops = 600;
/** A job of some seconds that has waited for a fault to end; more means that I/O hangs (ms). */
const jobTimeoutMs = 240_000;

export interface FioLoopResult {
  jobs: number;
  problems: string[];
  /** of the last job that verified, for verifying an image; 0 when there was none */
  lastSeed: number;
}

export function soakFioOptions(seed: number): Record<string, string> {
  return {
    rw: 'randwrite',
    bs: '4k',
    iodepth: '16',
    size: String(fioBytes),
    verify: 'crc32c',
    // Another seed in each job: else the data of an earlier one would pass.
    randseed: String(seed),
  };
}

/**
 * Runs fio jobs with verification one after another. After `last` the one that runs ends first; `stop`
 * ends it at once.
 */
export async function runFioLoop(
  uri: string,
  dir: string,
  firstSeed: number,
  signals: { last: AbortSignal; stop: AbortSignal },
): Promise<FioLoopResult> {
  const result: FioLoopResult = { jobs: 0, problems: [], lastSeed: 0 };
  while (!signals.last.aborted && !signals.stop.aborted && result.problems.length === 0) {
    const seed = firstSeed + result.jobs;
    try {
      const { error, command } = await runFio({
        uri,
        dir,
        timeoutMs: jobTimeoutMs,
        signal: signals.stop,
        options: {
          ...soakFioOptions(seed),
          rate_iops: String(fioIops),
          verify_backlog: '1024',
          // One process: killing it ends the job too.
          thread: '1',
          verify_fatal: '1',
        },
      });
      if (error !== 0) {
        const output = `${command.stdout}${command.stderr}`.slice(-2_000);
        result.problems.push(`fio on ${uri} ended with error ${error}: ${output}`);
      }
    } catch (error) {
      result.problems.push(`fio on ${uri}: ${(error as Error).message.slice(-2_000)}`);
    }
    result.jobs += 1;
    if (result.problems.length === 0) result.lastSeed = seed;
  }
  return result;
}
