import type { AcceptReport } from '../../harness/accept-report.ts';
import { runCommand } from '../../harness/run-command.ts';
import { TestCluster, type TestClusterOptions } from '../../harness/test-cluster.ts';

/** What each part of `npm run accept -- nbd` works on. */
export interface NbdStage {
  /** a folder of this part alone */
  dir: string;
  report: AcceptReport;
  /** that the two fuzzers run, together */
  fuzzMinutes: number;
}

/** Runs something on a started cluster on loopback and takes it down again. */
export async function onCluster(
  stage: NbdStage,
  options: Omit<TestClusterOptions, 'dir'>,
  run: (cluster: TestCluster) => Promise<void>,
): Promise<void> {
  const cluster = await TestCluster.create({ ...options, dir: stage.dir });
  try {
    await cluster.start();
    await cluster.waitFit();
    await run(cluster);
  } catch (error) {
    process.stderr.write(`${cluster.logTails()}\n`);
    throw error;
  } finally {
    await cluster.close();
  }
}

/** Adds a line: what `check` says was seen, or how it failed. */
export async function line(
  { report }: NbdStage,
  name: string,
  target: string,
  check: () => Promise<string>,
): Promise<void> {
  try {
    report.add(name, await check(), target, true);
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    process.stderr.write(`${name}: ${text}\n`);
    report.add(name, 'failed (see above)', target, false);
  }
}

/** The output of a program; throws with all that it printed unless it ends with 0. */
export async function output(command: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await runCommand(command, args);
  if (code !== 0) throw new Error(`${command} ${args.join(' ')}: ${code}\n${stdout}${stderr}`);
  return stdout;
}

/** What a program says on its way to an exit code other than 0; throws when it succeeds. */
export async function refusal(command: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await runCommand(command, args);
  if (code === 0) throw new Error(`${command} ${args.join(' ')} succeeded: ${stdout}`);
  return stderr.trim();
}

export function expect(isRight: boolean, what: string): void {
  if (!isRight) throw new Error(`not so: ${what}`);
}
