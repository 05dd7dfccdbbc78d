import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Volume } from '@stor/protocol';
import { checkoutRoot } from '../harness/checkout.ts';
import { reservePorts } from '@stor/runtime/testing';
import { mustRun, runCommand } from '../harness/run-command.ts';
import { waitFor } from '../harness/wait-for.ts';
import { runVerifier, WriterProcess } from '../harness/writer-process.ts';
import { hashImage } from './replicas.ts';
import { seconds, type AcceptReport } from '../harness/accept-report.ts';

const MiB = 1024 * 1024;
const firstUpTargetMs = 120_000;
const secondUpTargetMs = 10_000;

/**
 * The transcript as a person types it: clone, `npm run up`, storctl, nbdcopy, kill -9, `npm run up`
 * again, `npm run down`. The clone has ports of its own, and what is committed, nothing else.
 */
export async function freshClone(dir: string, report: AcceptReport): Promise<void> {
  const clone = join(dir, 'stor');
  await mustRun('git', ['clone', '--quiet', checkoutRoot(), clone]);
  const ports = await reservePorts(50);
  const basePort = String(ports[0]);
  const npm = (...args: string[]): ReturnType<typeof runCommand> =>
    runCommand('npm', ['run', '--silent', ...args], { cwd: clone, timeoutMs: 300_000 });
  const up = (): ReturnType<typeof runCommand> => npm('up', '--', '--base-port', basePort);
  const storctl = async (...args: string[]): Promise<string> =>
    (await mustRun(join(clone, 'bin/storctl'), args, { cwd: clone })).stdout.trim();
  try {
    const first = await up();
    report.add(
      'npm run up on a fresh clone',
      first.code === 0 ? seconds(first.elapsedMs) : `exit code ${first.code}: ${first.stderr}`,
      `exit 0 in under ${seconds(firstUpTargetMs)}`,
      first.code === 0 && first.elapsedMs < firstUpTargetMs,
    );
    const hashes = first.stdout.match(/\b[0-9a-f]{64}\b/g) ?? [];
    const [written, read] = hashes;
    report.add(
      'npm run up: SHA-256 written through one node, read through another',
      `${written?.slice(0, 12)} and ${read?.slice(0, 12)}`,
      'two, and the same',
      hashes.length >= 2 && written === read,
    );
    const second = await up();
    report.add(
      'npm run up, second time',
      second.code === 0 ? seconds(second.elapsedMs) : `exit code ${second.code}`,
      `exit 0 in under ${seconds(secondUpTargetMs)}`,
      second.code === 0 && second.elapsedMs < secondUpTargetMs,
    );
    await transcript(dir, clone, storctl, up, report);
    await downAndUp(dir, npm, storctl, up, report);
  } finally {
    await npm('down', '--', '--purge');
  }
}

type Run = () => ReturnType<typeof runCommand>;
type Storctl = (...args: string[]) => Promise<string>;

async function transcript(
  dir: string,
  clone: string,
  storctl: Storctl,
  up: Run,
  report: AcceptReport,
): Promise<void> {
  const image = join(dir, 'disk.img');
  const bytes = Buffer.concat([randomBytes(24 * MiB), Buffer.alloc(8 * MiB)]);
  writeFileSync(image, bytes);
  const imageHash = await hashImage(image);
  const nodes = await storctl('node', 'ls', '-o', 'name', '--no-headers');
  await storctl('volume', 'create', 'db', '--size', '2GiB', '--replicas', '3');
  await storctl('volume', 'import', 'db', image);
  await storctl('volume', 'export', 'db', join(dir, 'out.img'));
  const exported = await hashImage(join(dir, 'out.img'));
  report.add(
    'storctl node ls; volume create, import, export',
    `${nodes.split('\n').length} nodes, hashes ${exported === imageHash ? 'equal' : 'DIFFER'}`,
    '3 nodes, the same bytes come back',
    nodes.split('\n').length === 3 && exported === imageHash,
  );
  const uri = await storctl('volume', 'uri', 'db');
  await mustRun('nbdcopy', [image, uri]);
  await mustRun('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri]).catch(
    // The volume is larger than the image: qemu-img says so and compares the rest with zeros.
    (error: unknown) => {
      if (!/Images are identical/.test(String(error))) throw error;
    },
  );
  report.add('nbdcopy into "$(storctl volume uri db)", qemu-img compare', 'equal', 'equal', true);
  await killSecondary(dir, clone, storctl, up, report);
}

const inspect = async (storctl: Storctl): Promise<Volume> =>
  JSON.parse(await storctl('volume', 'inspect', 'db', '-o', 'json')) as Volume;

async function waitHealth(storctl: Storctl, health: string): Promise<void> {
  await waitFor(
    `db to be ${health}`,
    async () => {
      const { status } = await inspect(storctl);
      if (status.health !== health) throw new Error(`${status.health}: ${status.message}`);
      return true;
    },
    { deadlineMs: 60_000, intervalMs: 200 },
  );
}

/** The process id in a pid file of the clone, checked to be an agent of this very clone. */
function agentPid(clone: string, node: string): number {
  const pid = Number(readFileSync(join(clone, '.stor', node, 'agent.pid'), 'utf8').trim());
  const commandLine = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  if (!commandLine.includes(clone)) throw new Error(`process ${pid} is not an agent of ${clone}`);
  return pid;
}

async function killSecondary(
  dir: string,
  clone: string,
  storctl: Storctl,
  up: Run,
  report: AcceptReport,
): Promise<void> {
  const logPath = join(dir, 'db.log');
  const uri = await storctl('volume', 'uri', 'db', '--node', 'n1');
  await storctl('volume', 'detach', 'db');
  const base = { uri, logPath, offset: 64 * MiB, length: 64 * MiB };
  const writer = new WriterProcess({ ...base, depth: 8, rate: 2_000, flushEvery: 500 });
  try {
    await waitFor('the writer to get going', () => writer.acknowledged > 500);
    process.kill(agentPid(clone, 'n2'), 'SIGKILL');
    await waitHealth(storctl, 'degraded');
    const before = writer.acknowledged;
    await waitFor('I/O to go on', () => writer.acknowledged > before + 1_000);
    const again = await up();
    await waitHealth(storctl, 'healthy');
    const summary = await writer.stop();
    const verified = await runVerifier(logPath, { uri });
    report.add(
      'kill -9 of n2, I/O goes on, degraded, npm run up, healthy',
      `${summary.errors.length} errors, ${verified.wrong} wrong of ${verified.acknowledged} writes`,
      '0 errors, 0 wrong',
      again.code === 0 && summary.errors.length === 0 && verified.wrong + verified.torn === 0,
    );
  } finally {
    await writer.kill();
  }
}

async function downAndUp(
  dir: string,
  npm: (...args: string[]) => ReturnType<typeof runCommand>,
  storctl: Storctl,
  up: Run,
  report: AcceptReport,
): Promise<void> {
  await storctl('volume', 'export', 'db', join(dir, 'before.img'));
  const down = await npm('down');
  const again = await up();
  await storctl('volume', 'export', 'db', join(dir, 'after.img'));
  const same =
    (await hashImage(join(dir, 'before.img'))) === (await hashImage(join(dir, 'after.img')));
  report.add(
    'npm run down, npm run up: the data is there',
    same ? 'the same' : 'DIFFERS',
    'the same',
    down.code === 0 && again.code === 0 && same,
  );
}
