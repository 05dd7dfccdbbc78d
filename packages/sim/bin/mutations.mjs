// node packages/sim/bin/mutations.mjs [--only NAME,...] [--seeds 200] [--minutes 3] [--jobs N]
// Applies each mutation to a copy of the sources and runs seeds until a checker finds it; then the
// same seed without the patch, which must be clean. A patch nobody finds means a simulator too weak.

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { buildTree, checkoutRoot } from './build-tree.mjs';
import { runPool } from './pool.mjs';

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    seeds: { type: 'string', default: '200' },
    'first-seed': { type: 'string', default: '1' },
    minutes: { type: 'string', default: '3' },
    jobs: { type: 'string', default: String(availableParallelism()) },
  },
});

const folder = join(checkoutRoot, 'packages/sim/mutations');
const work = mkdtempSync(join(tmpdir(), 'stor-mutations-'));
process.on('SIGINT', () => {
  rmSync(work, { recursive: true, force: true });
  process.exit(130);
});
const only = values.only?.split(',');
const names = readdirSync(folder)
  .filter((file) => file.endsWith('.patch'))
  .map((file) => file.slice(0, -'.patch'.length))
  .filter((name) => !only || only.includes(name));
/** seeds that the unpatched sources passed, by world and number */
const clean = new Map();
const rows = [];
try {
  buildTree(join(work, 'clean'));
  for (const name of names) {
    const row = await hunt(name);
    rows.push(row);
    process.stdout.write(`${line(row)}\n`);
    rmSync(join(work, name), { recursive: true, force: true });
  }
} finally {
  rmSync(work, { recursive: true, force: true });
}
const missed = rows.filter((row) => row.seed === null || !row.isClean);
process.stdout.write(`${rows.length} mutations, ${rows.length - missed.length} caught\n`);
process.exitCode = missed.length > 0 ? 1 : 0;

/**
 * Small clusters under many faults; a patch with a line `world: lanes` is hunted on lanes, one with
 * `scrub: true` beside scrubs.
 */
function optionsOf(name) {
  const text = readFileSync(join(folder, `${name}.patch`), 'utf8');
  const world = /^world: (\w+)$/m.exec(text)?.[1];
  const scrub = /^scrub: true$/m.test(text);
  return {
    minutes: Number(values.minutes),
    dense: true,
    ...(world ? { world } : {}),
    ...(scrub ? { scrub } : {}),
  };
}

async function hunt(name) {
  const tree = join(work, name);
  try {
    // from the sources as they were when this began, whatever is edited meanwhile
    buildTree(tree, [join(folder, `${name}.patch`)], undefined, join(work, 'clean'));
  } catch (error) {
    return { name, seed: null, detail: String(error), isClean: true };
  }
  const options = optionsOf(name);
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
  if (!caught) return { name, seed: null, detail: `not in ${values.seeds} seeds`, isClean: true };
  const isClean = await passes(options, caught.seed);
  const [{ checker, detail }] = caught.violations;
  return { name, seed: caught.seed, checker, detail, isClean };
}

async function passes(options, seed) {
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

function line({ name, seed, checker, detail, isClean }) {
  if (seed === null) return `${name.padEnd(40)} NOT CAUGHT  ${detail}`;
  const without = isClean ? '' : '; the seed fails WITHOUT the patch too';
  return `${name.padEnd(40)} seed ${String(seed).padStart(4)}  ${checker}${without}  ${detail.slice(0, 90)}`;
}
