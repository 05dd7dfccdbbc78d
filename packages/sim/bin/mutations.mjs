// Applies each mutation to a copy of the sources and lets its hunter look for it: the simulator, seed
// by seed until a checker finds it, or the test file that the patch names. Then the same without the
// patch, which must be clean. A patch nobody finds means a simulator, or a test, too weak.

import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { addTests, buildTree, checkoutRoot, compiledTest } from './build-tree.mjs';
import { parseOptions } from './parse-options.mjs';
import { runPool } from './pool.mjs';
import { runTest, stopTests } from './run-test.mjs';

const usage = `usage: npm run sim:mutations -- [--only NAME,...] [--by seeds|tests] [--seeds N] [--first-seed N]
                                [--minutes N] [--jobs N]
Breaks the sources rule by rule, in copies: the simulator, or the test that a patch in
packages/sim/mutations names, must notice.

  --seeds        tried at most for each; default 200, from --first-seed (1) on
  --minutes      of virtual time for each seed; default 3
  --jobs         processes; default: one for each processor`;

const values = parseOptions(usage, {
  only: { type: 'string' },
  by: { type: 'string' },
  seeds: { type: 'string', default: '200' },
  'first-seed': { type: 'string', default: '1' },
  minutes: { type: 'string', default: '3' },
  jobs: { type: 'string', default: String(availableParallelism()) },
});

const folder = join(checkoutRoot, 'packages/sim/mutations');
const work = mkdtempSync(join(tmpdir(), 'stor-mutations-'));
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    stopTests();
    rmSync(work, { recursive: true, force: true });
    process.exit(130);
  });
}
const only = values.only?.split(',');
const mutations = readdirSync(folder)
  .filter((file) => file.endsWith('.patch'))
  .map((file) => mutationOf(file.slice(0, -'.patch'.length)))
  .filter(({ name }) => !only || only.includes(name))
  .filter(({ test }) => !values.by || values.by === (test ? 'tests' : 'seeds'));
/** what the unpatched sources passed: seeds by world and number, and test files */
const clean = new Map();
const rows = [];
try {
  buildTree(join(work, 'clean'));
  for (const { test } of mutations) if (test) await passesTest(test);
  const byTests = mutations.filter(({ test }) => test);
  // a test runs in one process, a hunt by seeds in as many as there are jobs
  await Promise.all(Array.from({ length: Number(values.jobs) }, () => huntAll(byTests)));
  await huntAll(mutations.filter(({ test }) => !test));
} finally {
  rmSync(work, { recursive: true, force: true });
}
const missed = rows.filter((row) => row.by === null || !row.isClean);
process.stdout.write(`${rows.length} mutations, ${rows.length - missed.length} caught\n`);
process.exitCode = missed.length > 0 ? 1 : 0;

/**
 * What the lines before the patch say. `test: FILE`: that test must fail. Else it is hunted by seeds:
 * small clusters under many faults; with `world: lanes` on lanes, with `scrub: true` beside scrubs.
 */
function mutationOf(name) {
  const text = readFileSync(join(folder, `${name}.patch`), 'utf8');
  const head = text.slice(0, text.indexOf('\n--- '));
  const test = /^test: (\S+)$/m.exec(head)?.[1] ?? null;
  const world = /^world: (\w+)$/m.exec(head)?.[1];
  const options = {
    minutes: Number(values.minutes),
    dense: true,
    ...(world ? { world } : {}),
    ...(/^scrub: true$/m.test(head) ? { scrub: true } : {}),
  };
  return { name, test, options };
}

async function huntAll(left) {
  for (let mutation = left.shift(); mutation; mutation = left.shift()) {
    const row = { name: mutation.name, ...(await hunt(mutation)) };
    rows.push(row);
    process.stdout.write(`${line(row)}\n`);
    rmSync(join(work, mutation.name), { recursive: true, force: true });
  }
}

/** `by`: what found it, or null. */
async function hunt({ name, test, options }) {
  const tree = join(work, name);
  try {
    // from the sources as they were when this began, whatever is edited meanwhile
    buildTree(tree, [join(folder, `${name}.patch`)], undefined, join(work, 'clean'));
  } catch (error) {
    return { by: null, detail: String(error), isClean: true };
  }
  return test ? huntByTest(tree, test) : huntBySeeds(tree, options);
}

async function huntByTest(tree, test) {
  const { name, path } = compiledTest(tree, test);
  const tests = `packages/${name}/dist/test`;
  cpSync(join(work, 'clean', tests), join(tree, tests), { recursive: true });
  const failure = await runTest(path);
  if (!failure) return { by: null, detail: `${test} passes`, isClean: true };
  return { by: test, detail: failure, isClean: await passesTest(test) };
}

async function passesTest(test) {
  if (!clean.has(test)) {
    const tree = join(work, 'clean');
    const { name, path } = compiledTest(tree, test);
    addTests(tree, name);
    const failure = await runTest(path);
    if (failure) process.stdout.write(`${test} fails WITHOUT any patch: ${failure}\n`);
    clean.set(test, failure === null);
  }
  return clean.get(test);
}

async function huntBySeeds(tree, options) {
  const last = Number(values['first-seed']) + Number(values.seeds) - 1;
  let seed = Number(values['first-seed']);
  let caught = null;
  await runPool({
    tree,
    jobs: Number(values.jobs),
    next: () => (caught === null && seed <= last ? { ...options, seed: seed++ } : null),
    onReport: (report) => {
      if (report.violations.length === 0) return undefined;
      caught = report;
      return 'enough';
    },
  });
  if (!caught) return { by: null, detail: `not in ${values.seeds} seeds`, isClean: true };
  const isClean = await passesSeed(options, caught.seed);
  const [{ checker, detail }] = caught.violations;
  return { by: `seed ${String(caught.seed).padStart(4)}  ${checker}`, detail, isClean };
}

async function passesSeed(options, seed) {
  const key = JSON.stringify({ ...options, seed });
  if (!clean.has(key)) {
    let left = { ...options, seed };
    await runPool({
      tree: join(work, 'clean'),
      jobs: 1,
      next: () => {
        const given = left;
        left = null;
        return given;
      },
      onReport: (report) => {
        clean.set(key, report.violations.length === 0);
      },
    });
  }
  return clean.get(key);
}

function line({ name, by, detail, isClean }) {
  if (by === null) return `${name.padEnd(40)} NOT CAUGHT  ${detail}`;
  const without = isClean ? '' : '; it fails WITHOUT the patch too';
  return `${name.padEnd(40)} ${by}${without}  ${detail.slice(0, 90)}`;
}
