import { mkdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import t, { type Test } from 'tap';

interface Bootstrap {
  bootstrap: (options: {
    root: string;
    say: (line: string) => void;
    run: (command: string, args: string[]) => Promise<{ status: number; log: string }>;
  }) => Promise<{ installed: boolean; built: boolean }>;
}
// The scripts are plain JavaScript without types, because they run before anything is installed.
const script = new URL('../../../scripts/bootstrap.mjs', import.meta.url).href;
const { bootstrap } = (await import(script)) as Bootstrap;

const nothing = { installed: false, built: false };
const buildOnly = { installed: false, built: true };
const both = { installed: true, built: true };

/** A checkout with one package, and a `run` that only keeps what it was asked to run. */
function checkout(t: Test) {
  const root = t.testdir({
    'package.json': '{"engines":{"node":">=20.20"}}',
    'pnpm-lock.yaml': 'lock 1',
    'pnpm-workspace.yaml': '',
    'tsconfig.json': '{}',
    packages: {
      a: { 'package.json': '{}', 'tsconfig.json': '{}', src: { 'a.ts': '1' }, dist: {} },
    },
    benchmarks: { 'package.json': '{}', 'tsconfig.json': '{}', dist: {} },
  });
  const commands: string[] = [];
  const said: string[] = [];
  let onRun: (command: string) => Promise<{ status: number; log: string }> = async () => ({
    status: 0,
    log: '',
  });
  return {
    root,
    commands,
    said,
    set onRun(run: typeof onRun) {
      onRun = run;
    },
    write(path: string, text: string) {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      writeFileSync(join(root, path), text);
    },
    go: () =>
      bootstrap({
        root,
        say: (line) => said.push(line),
        run: async (command, args) => {
          const what = args.includes('install')
            ? 'install'
            : args.at(-1) === '-b'
              ? 'build'
              : command;
          commands.push(what);
          return onRun(what);
        },
      }),
  };
}

t.test('installs and builds once, and again only for what changed', async (t) => {
  const it = checkout(t);
  t.same(await it.go(), both);
  t.same(it.commands, ['install', 'build']);
  t.same(await it.go(), nothing);
  it.write('packages/a/src/a.ts', '12');
  t.same(await it.go(), buildOnly, 'a source changed');
  utimesSync(join(it.root, 'packages/a/src/a.ts'), new Date(0), new Date(0));
  t.same(await it.go(), buildOnly, 'a source became older, as a checkout of a branch may do');
  it.write('packages/a/src/core/b.ts', '1');
  t.same(await it.go(), buildOnly, 'a source appeared');
  rmSync(join(it.root, 'packages/a/src/core/b.ts'));
  t.same(await it.go(), buildOnly, 'a source went');
  it.write('packages/a/proto/x.proto', '1');
  t.same(await it.go(), buildOnly);
  rmSync(join(it.root, 'packages/a/dist'), { recursive: true });
  it.onRun = async () => {
    mkdirSync(join(it.root, 'packages/a/dist'), { recursive: true });
    return { status: 0, log: '' };
  };
  t.same(await it.go(), buildOnly, 'the output went');
  it.write('pnpm-lock.yaml', 'lock 2');
  t.same(await it.go(), both, 'the lock file changed');
  it.write('packages/a/package.json', '{"dependencies":{}}');
  t.same(await it.go(), both, 'a package.json changed');
  utimesSync(join(it.root, 'pnpm-lock.yaml'), new Date(0), new Date(0));
  t.same(await it.go(), nothing, 'for the install contents count, not times');
  it.write('packages/a/dist/a.js', '1');
  it.write('packages/a/test/a.test.ts', '1');
  it.write('packages/a/node_modules/x/x.ts', '1');
  it.write('README.md', '1');
  t.same(await it.go(), nothing, 'outputs, tests and documents are no inputs');
});

t.test('an install by hand counts', async (t) => {
  const it = checkout(t);
  it.write('node_modules/.pnpm/lock.yaml', 'lock 1');
  t.same(await it.go(), buildOnly);
  it.write('pnpm-lock.yaml', 'lock 2');
  t.same(await it.go(), both);
});

t.test('what failed is done again, and its log is shown', async (t) => {
  const it = checkout(t);
  it.onRun = async (what) =>
    what === 'install' ? { status: 0, log: '' } : { status: 2, log: 'a.ts(1,1): error' };
  await t.rejects(it.go(), { message: /a\.ts\(1,1\): error\nstor: ".* -b" failed with status 2/ });
  it.onRun = async () => ({ status: 0, log: '' });
  t.same(await it.go(), buildOnly, 'the install had worked');
  it.write('pnpm-lock.yaml', 'lock 2');
  it.onRun = async () => ({ status: 1, log: 'no network' });
  await t.rejects(it.go(), { message: /no network/ });
  it.onRun = async () => ({ status: 0, log: '' });
  t.same(await it.go(), both);
});

t.test('a source saved while the compiler runs is compiled by the next run', async (t) => {
  const it = checkout(t);
  it.onRun = async (what) => {
    if (what === 'build') it.write('packages/a/src/a.ts', 'saved meanwhile');
    return { status: 0, log: '' };
  };
  t.same(await it.go(), both);
  it.onRun = async () => ({ status: 0, log: '' });
  t.same(await it.go(), buildOnly);
  t.same(await it.go(), nothing);
});

t.test('two at once: one works, the other waits and finds it done', async (t) => {
  const it = checkout(t);
  let running = 0;
  let most = 0;
  it.onRun = async () => {
    most = Math.max(most, (running += 1));
    // long enough for the other one to look
    while (!it.said.some((line) => line.includes('waiting')))
      await new Promise((r) => setImmediate(r));
    running -= 1;
    return { status: 0, log: '' };
  };
  const results = await Promise.all([it.go(), it.go()]);
  t.same(results.filter((result) => result.built).length, 1);
  t.same([most, it.commands], [1, ['install', 'build']]);
});

t.test('an old Node is told which one it needs', async (t) => {
  const it = checkout(t);
  it.write('package.json', '{"engines":{"node":">=999.1"}}');
  await t.rejects(it.go(), { message: /Node .* is too old: Stor needs Node 999.1 or newer/ });
  t.same(it.commands, []);
});
