// Two real Docker Engines with the plug-ins of two agents: containers and their data move between them.
import t, { type Test } from 'tap';
import { DockerStage, leftBehind } from '../../benchmarks/src/harness/docker-stage.ts';
import type { CommandResult } from '../../benchmarks/src/harness/run-command.ts';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { pluginCompliance } from '../../packages/docker-plugin/src/testing/index.ts';
import { ensureBuilt } from '../support/cluster.ts';
import { needs, needsFuseDevices } from '../support/needs.ts';

async function openStage(t: Test): Promise<DockerStage> {
  ensureBuilt();
  const stage = await DockerStage.create();
  t.teardown(async () => {
    if (!t.passing()) {
      for (const line of stage.cluster.logTails().split('\n')) t.comment(line);
      for (const engine of stage.engines) t.comment(engine.logTail());
    }
    await stage.close();
  });
  await stage.start();
  return stage;
}

/** Without what the image of an engine adds around it. */
const out = ({ code, stdout, stderr }: CommandResult): string =>
  code === 0 ? stdout.trim() : `exit code ${code}: ${stderr}`;

const canRun = (t: Test): boolean =>
  needsFuseDevices(t) &&
  needs(t, 'dockerd', 'docker.io') &&
  needs(t, 'docker', 'docker.io') &&
  needs(t, 'busybox', 'busybox-static') &&
  needs(t, 'unshare', 'util-linux');

t.test('volumes of containers on two Docker Engines', async (t) => {
  if (!canRun(t)) return;
  const stage = await openStage(t);
  const { cluster } = stage;
  const [one, two] = stage.engines;
  const first = cluster.agent(0);

  await t.test('a volume is made inline, and is the same on the other engine', async (t) => {
    t.equal(out(await one.shell('db', 'ls -A /data; echo one > /data/file')), '', 'it is empty');
    t.equal(out(await two.shell('db', 'cat /data/file')), 'one');
    t.match(await one.must('volume', 'ls'), /stor +db/);
    const [shown] = JSON.parse(await two.must('volume', 'inspect', 'db')) as [
      { Driver: string; Scope: string; Status: object },
    ];
    t.match(shown, { Driver: 'stor', Scope: 'global', Status: { size: '64MiB', fs: 'ext4' } });
    const xfs = ['-o', 'fs=xfs', '-o', 'size=300MiB', '-o', 'mount-options=noatime'];
    await one.must('volume', 'create', '-d', 'stor', ...xfs, 'files');
    const mounted = out(await two.shell('files', 'cat /proc/mounts'));
    t.match(mounted, / \/data xfs rw,noatime/, 'as it was told to the other one');
    await one.must('volume', 'rm', 'files');
    const wrong = await one.docker('volume', 'create', '-d', 'stor', '-o', 'sise=1GiB', 'x');
    t.match(wrong.stderr, /did you mean size/);
  });

  await t.test('a container keeps its data over restarts of engine and agent', async (t) => {
    const run = ['run', '-d', '--name', 'c1', '--network', 'none', '--volume-driver', 'stor'];
    await one.must(...run, '-v', 'db:/data', 'bb', 'sh', '-c', 'sleep 1000000');
    const refused = await two.shell('db', 'cat /data/file');
    t.not(refused.code, 0);
    t.match(refused.stderr, /on node n1/, 'the holder lives');
    t.match((await two.docker('volume', 'rm', 'db')).stderr, /in use on node n1/);
    t.match((await one.docker('volume', 'rm', 'db')).stderr, /in use/);

    await one.stop();
    await one.start();
    await one.must('exec', 'c1', 'sh', '-c', 'echo two > /data/file');
    await first.stop();
    first.start();
    await first.waitReady();
    // of this file only: other tests have file systems whose devices are made to wait
    await one.must('exec', 'c1', 'sh', '-c', 'echo three >> /data/file; sync /data/file');
    t.equal(await one.must('exec', 'c1', 'cat', '/data/file'), 'two\nthree');
    await first.kill9();
    const beside = one.shell('db', 'cat /data/file');
    first.start();
    t.equal(out(await beside), 'two\nthree', 'dockerd waits for the agent');
    await first.waitReady();
  });

  await t.test('nothing is left of many containers, one after another and together', async (t) => {
    await two.shell('warm', 'echo');
    await two.must('volume', 'rm', 'warm');
    const start = await stage.leftovers();
    const cycle = async (name: string): Promise<void> => {
      const result = await two.shell(name, 'ls -A /data && echo x > /data/x && cat /data/x');
      t.equal(out(result), 'x');
      await two.must('volume', 'rm', name);
    };
    for (let at = 0; at < 2; at++) await cycle(`one-${at}`);
    await Promise.all(Array.from({ length: 4 }, (_, at) => cycle(`many-${at}`)));
    const left = await waitFor(
      'all that was used to be gone',
      async () => {
        const now = leftBehind(start, await stage.leftovers());
        if (now === '') return 'nothing';
        throw new Error(now);
      },
      { deadlineMs: 60_000, intervalMs: 500 },
    ).catch((error: unknown) => String(error));
    t.equal(left, 'nothing');
  });
  await t.test('it starts elsewhere with its data when its host is dead', async (t) => {
    await Promise.all([first.kill9(), one.killAll()]);
    t.equal(out(await two.shell('db', 'cat /data/file; echo four >> /data/file')), 'two\nthree');
    t.equal(out(await two.shell('db', 'cat /data/file')), 'two\nthree\nfour');
    t.equal(await two.must('volume', 'rm', 'db'), 'db');
  });
});

t.test('the plug-ins of a real cluster do what dockerd relies on', async (t) => {
  if (!canRun(t)) return;
  ensureBuilt();
  const stage = await DockerStage.create();
  t.teardown(() => stage.close());
  await stage.cluster.start();
  await stage.cluster.waitFit();
  const [first, second] = stage.sockets;
  await pluginCompliance(t, {
    first,
    second,
    firstNode: 'n1',
    size: '64MiB',
  });
});
