import { parseArgs } from 'node:util';
import { AcceptReport, seconds } from '../harness/accept-report.ts';
import { DockerStage, leftBehind, type Leftovers } from '../harness/docker-stage.ts';
import { describeResult, type CommandResult } from '../harness/run-command.ts';
import { waitFor } from '../harness/wait-for.ts';
import { postgres } from './containers/postgres.ts';

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    cycles: { type: 'string', default: '200' },
    parallel: { type: 'string', default: '20' },
  },
});

const report = new AcceptReport();

function must(result: CommandResult): string {
  if (result.code !== 0) throw new Error(describeResult(result));
  return result.stdout.trim();
}

/** '' once nothing is left; else what is, after a while. */
async function settled(stage: DockerStage, before: Leftovers): Promise<string> {
  return waitFor(
    'what was used to be gone',
    async () => {
      const left = leftBehind(before, await stage.leftovers());
      if (left !== '') throw new Error(left);
      return 'nothing';
    },
    { deadlineMs: 120_000, intervalMs: 1_000 },
  ).then(
    () => '',
    (error: unknown) => (error as Error).message,
  );
}

function addLeft(name: string, left: string): void {
  if (left !== '') process.stderr.write(`${left}\n`);
  report.add(
    `${name}: what is left behind`,
    left === '' ? 'nothing' : 'something',
    'nothing',
    left === '',
  );
}

/** Made, mounted, written, read, unmounted, removed. */
async function cycle(stage: DockerStage, name: string): Promise<void> {
  const [engine] = stage.engines;
  must(await engine.shell(name, 'test -z "$(ls -A /data)" && echo x > /data/x && cat /data/x'));
  await engine.must('volume', 'rm', name);
}

async function cycles(stage: DockerStage): Promise<void> {
  const before = await stage.leftovers();
  const count = Number(values.cycles);
  const startMs = performance.now();
  for (let at = 0; at < count; at++) await cycle(stage, `cycle-${at}`);
  const eachMs = (performance.now() - startMs) / count;
  report.add('create, mount, unmount, remove', `${count} in a row`, `${count}`, true);
  report.add('one of them', seconds(eachMs), 'for information', true);
  addLeft('in a row', await settled(stage, before));
}

async function parallel(stage: DockerStage): Promise<void> {
  const before = await stage.leftovers();
  const count = Number(values.parallel);
  const startMs = performance.now();
  await Promise.all(Array.from({ length: count }, (_, at) => cycle(stage, `beside-${at}`)));
  report.add(
    'at the same time',
    `${count} in ${seconds(performance.now() - startMs)}`,
    `${count}`,
    true,
  );
  addLeft('at the same time', await settled(stage, before));
}

/** The host of a container dies: it starts on the other one with its data. */
async function failover(stage: DockerStage): Promise<void> {
  const [one, two] = stage.engines;
  await one.must(
    ...['run', '-d', '--network', 'none', '--volume-driver', 'stor', '-v', 'db:/data', 'bb'],
    ...[
      'sh',
      '-c',
      'dd if=/dev/urandom of=/data/file bs=1M count=8; sync -f /data/file; sleep 1000000',
    ],
  );
  const sum = await waitFor('the data to be written', async () => {
    const shown = await one.docker('ps', '-q');
    const id = shown.stdout.trim();
    const size = await one.docker(
      'exec',
      id,
      'sh',
      '-c',
      'sync -f /data/file; md5sum /data/file; ls -l /data/file',
    );
    return / 8388608 /.test(size.stdout) ? size.stdout.split(' ')[0] : null;
  });
  const refused = await two.shell('db', 'cat /data/file');
  const isNamed = refused.code !== 0 && refused.stderr.includes('on node n1');
  report.add('a second host is refused by name', isNamed ? 'yes' : 'no', 'yes', isNamed);
  const startMs = performance.now();
  await Promise.all([stage.cluster.agent(0).kill9(), one.killAll()]);
  const there = must(await two.shell('db', 'md5sum /data/file')).split(' ')[0];
  const tookMs = performance.now() - startMs;
  report.add('started on the other host', seconds(tookMs), 'under 60 s', tookMs < 60_000);
  report.add('with its data', there === sum ? 'the same' : 'another', 'the same', there === sum);
}

const parts: Record<string, (stage: DockerStage) => Promise<void>> = {
  cycles,
  parallel,
  postgres: (stage) => postgres(stage, report),
  // the last one: a host is dead after it
  failover,
};

async function run(): Promise<void> {
  await stage.start();
  // what is made once and stays: the first device's libraries, connections between nodes
  await cycle(stage, 'warm');
  for (const [name, part] of Object.entries(parts)) {
    if (positionals.length > 0 && !positionals.includes(name)) continue;
    await report.part(name, () => part(stage));
  }
}

const unknown = positionals.filter((name) => !(name in parts));
if (unknown.length > 0) {
  const known = Object.keys(parts).join(', ');
  process.stderr.write(`error: no part ${unknown.join(', ')}; there are: ${known}\n`);
  process.exit(2);
}
const stage = await DockerStage.create();
try {
  await run();
} finally {
  await stage.close();
}
process.exitCode = report.finish() ? 0 : 1;
