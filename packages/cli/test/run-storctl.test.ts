import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { errorCodes, exitCodeOf } from '@stor/protocol';
import { FakeCluster } from './support/fake-cluster.ts';
import { run } from './support/run.ts';

t.test('each error code ends with its exit code, with -o json as an object too', async (t) => {
  for (const code of errorCodes) {
    const cluster = new FakeCluster();
    cluster.fail('listVolumes', code, 'what, why, what to do', { fact: 'x' });
    const { exitCode, stdout, stderr } = await run(cluster, ['volume', 'ls', '-o', 'json']);
    t.equal(exitCode, exitCodeOf[code], code);
    t.equal(stdout, '');
    const [first, second] = stderr.split('\n');
    t.equal(first, 'error: what, why, what to do');
    t.same(JSON.parse(second ?? ''), {
      error: { code, message: 'what, why, what to do', details: { fact: 'x' }, exitCode },
    });
    t.same([cluster.opened, cluster.closed], [1, 1], 'the client is closed');
  }
});

t.test('where the endpoints come from', async (t) => {
  const dir = t.testdir({ inner: { deep: {} }, other: {}, program: {} });
  const cluster = new FakeCluster();
  const from = async (
    argv: string[],
    env: Record<string, string>,
    cwd: string,
    programDir?: string,
  ) => {
    const io = { env, cwd, ...(programDir === undefined ? {} : { programDir }) };
    const { exitCode, stderr } = await run(cluster, ['node', 'ls', ...argv], io);
    return exitCode === 0 ? cluster.endpoints : stderr;
  };
  const write = (path: string, text: string) => {
    mkdirSync(join(dir, path, '.stor'), { recursive: true });
    writeFileSync(join(dir, path, '.stor/cluster.yaml'), text);
  };
  write('inner', 'endpoints: [127.0.0.1:1, "[::1]:2"]\n');
  write('program', 'endpoints: [127.0.0.1:3]\n');
  const deep = join(dir, 'inner/deep');
  const program = join(dir, 'program');
  t.same(await from(['--endpoints', 'a:9, b:8,a:9'], { STOR_ENDPOINTS: 'c:7' }, deep), [
    'a:9',
    'b:8',
  ]);
  t.same(await from([], { STOR_ENDPOINTS: 'c:7' }, deep), ['c:7']);
  t.same(await from([], {}, deep, program), ['127.0.0.1:1', '[::1]:2']);
  t.same(await from([], {}, '/', program), ['127.0.0.1:3']);
  t.match(await from([], {}, '/'), /no cluster to talk to.*npm run up/);
  t.match(await from(['--endpoints', 'a:99999'], {}, '/'), /not valid/);
  t.match(await from(['--endpoints', ','], {}, '/'), /names no endpoint/);
  write('inner', 'endpoints: none\n');
  t.match(await from([], {}, deep), /has no list "endpoints"/);
  write('inner', 'endpoints: [\n');
  t.match(await from([], {}, deep), /cannot read/);
});

t.test('a call without an answer ends with 124, Ctrl-C with 130', async (t) => {
  const cluster = new FakeCluster();
  cluster.hanging.add('createVolume');
  const create = ['volume', 'create', 'db', '--size', '1GiB'];
  const late = await run(cluster, [...create, '--timeout', '20ms']);
  t.equal(late.exitCode, 124);
  t.match(late.stderr, /no answer within 0.02 s; a change may still take effect/);
  t.equal(cluster.timeoutMs, 20);
  const controller = new AbortController();
  const running = run(cluster, create, { signal: controller.signal });
  controller.abort();
  const interrupted = await running;
  t.equal(interrupted.exitCode, 130);
  t.match(interrupted.stderr, /^error: interrupted/);
  t.equal(cluster.closed, cluster.opened);
});

t.test('rm asks on a terminal and removes what it asked about', async (t) => {
  const cluster = new FakeCluster();
  await run(cluster, ['volume', 'create', 'db', '--size', '1GiB']);
  const questions: string[] = [];
  const answering = (answer: string) => ({
    isTty: true,
    ask: async (question: string) => {
      questions.push(question);
      return answer;
    },
  });
  for (const no of ['', 'n', 'yeah no']) {
    const { exitCode } = await run(cluster, ['volume', 'rm', 'db'], answering(no));
    t.equal(exitCode, 130);
  }
  t.equal(cluster.volumes.length, 1);
  t.equal(
    questions[0],
    'Delete volume db (1GiB, 3 replicas on n1, n2, n3, 256KiB used)? Its data can be brought back for 1d. [y/N] ',
  );
  const yes = await run(cluster, ['volume', 'rm', 'db'], answering('Yes'));
  t.equal(yes.exitCode, 0);
  t.match(yes.stdout, /^volume db deleted; until 2026-.*Z "storctl volume undelete db" brings it/);
  const deletion = cluster.calls.find((call) => call.method === 'deleteVolume');
  t.same(deletion?.request, { name: 'v-0000000000000001', keepMs: 86_400_000 });
  await run(cluster, ['volume', 'create', 'db', '--size', '1GiB']);
  const { status } = cluster.volume('db');
  status.snapshots = 2;
  await run(cluster, ['volume', 'rm', 'db', '--keep', '0'], answering('y'));
  t.match(questions.at(-1), /Its data and its 2 snapshots are lost\. \[y\/N\]/);
  t.equal(cluster.trash.length, 1);
});

t.test('an orphan is adopted under a name, and removed by its volume and id', async (t) => {
  const cluster = new FakeCluster();
  await run(cluster, ['volume', 'create', 'db', '--size', '1GiB']);
  for (const name of ['a', 'b']) {
    await run(cluster, ['snapshot', 'create', `db@${name}`]);
    const snapshot = cluster.snapshot(`db@${name}`);
    snapshot.metadata.name = `db@${snapshot.metadata.id}`;
    snapshot.status.state = 'orphan';
  }
  const [first = '', second = ''] = cluster.snapshots.map(({ metadata }) => metadata.name);
  t.match((await run(cluster, ['snapshot', 'ls', '--orphans'])).stdout, /orphan +- /);
  const adopted = await run(cluster, ['snapshot', 'adopt', first, 'monday']);
  t.equal(adopted.stdout, `${first} is snapshot db@monday now\n`);
  t.equal((await run(cluster, ['snapshot', 'rm', second, '-y'])).exitCode, 0);
  t.same(
    cluster.snapshots.map(({ metadata }) => metadata.name),
    ['db@monday'],
  );
});

t.test('snapshots and the trash are removed after a question too', async (t) => {
  const cluster = new FakeCluster();
  await run(cluster, ['volume', 'create', 'db', '--size', '1GiB']);
  for (const name of ['a', 'b', 'c']) await run(cluster, ['snapshot', 'create', `db@${name}`]);
  const questions: string[] = [];
  const answering = (answer: string) => ({
    isTty: true,
    ask: async (question: string) => {
      questions.push(question);
      return answer;
    },
  });
  const words = ['snapshot', 'rm', 'db@a', 'db@b'];
  t.equal((await run(cluster, words, answering('n'))).exitCode, 130);
  t.equal(cluster.snapshots.length, 3);
  t.equal((await run(cluster, words, answering('y'))).exitCode, 0);
  t.same(
    cluster.snapshots.map(({ metadata }) => metadata.name),
    ['db@c'],
  );
  const back = ['volume', 'rollback', 'db@c'];
  t.equal((await run(cluster, back, answering('no'))).exitCode, 130);
  t.notOk(cluster.calls.some(({ method }) => method === 'rollbackVolume'));
  t.equal((await run(cluster, back, answering('y'))).exitCode, 0);
  await run(cluster, ['volume', 'rm', 'db', '-y']);
  t.equal((await run(cluster, ['trash', 'empty'], answering('n'))).exitCode, 130);
  t.equal(cluster.trash.length, 1);
  t.equal((await run(cluster, ['trash', 'empty'], answering('y'))).exitCode, 0);
  t.equal(cluster.trash.length, 0);
  t.same(questions, [
    'Delete 2 snapshots (db@a, db@b)? What only they hold is lost. [y/N] ',
    'Delete 2 snapshots (db@a, db@b)? What only they hold is lost. [y/N] ',
    'Roll volume db back to db@c? What was written since is kept as another snapshot. [y/N] ',
    'Roll volume db back to db@c? What was written since is kept as another snapshot. [y/N] ',
    'Delete 1 volume in the trash? Data and snapshots are lost, and cannot be brought back. [y/N] ',
    'Delete 1 volume in the trash? Data and snapshots are lost, and cannot be brought back. [y/N] ',
  ]);
});

t.test('a program error is code 1 and shows its place only when asked', async (t) => {
  const cluster = new FakeCluster();
  const broken = {
    openApi: () => {
      throw new TypeError('x is not a function');
    },
  };
  const plain = await run(cluster, ['node', 'ls'], broken);
  t.same([plain.exitCode, plain.stderr], [1, 'error: x is not a function\n']);
  const env = { STOR_DEBUG: '1', STOR_ENDPOINTS: 'a:1' };
  const debug = await run(cluster, ['node', 'ls'], { ...broken, env });
  t.match(debug.stderr, /run-storctl/);
});

t.test('a request carries what was asked for', async (t) => {
  const cluster = new FakeCluster();
  await run(cluster, ['volume', 'create', 'a', '--size', '1.5GiB', '--label', 'k=v']);
  await run(cluster, ['volume', 'create', 'b', '--size', '10', '--replicas', '2']);
  await run(cluster, ['disk', 'add', 'n2', '/mnt/x/']);
  await run(cluster, ['volume', 'attach', 'a']);
  t.same(
    cluster.calls.map((call) => call.request),
    [
      { name: 'a', sizeBytes: 1.5 * 2 ** 30, replicas: 0, labels: { k: 'v' } },
      { name: 'b', sizeBytes: 10, replicas: 2, labels: {} },
      {
        node: 'n2',
        path: '/mnt/x',
        tag: 'any',
        labels: {},
        reserve: '',
        forceFormat: false,
      },
      { name: 'a', node: '' },
    ],
  );
});
