// Copies the sources of the packages that the simulator runs into a folder of its own and strips
// their types there, so that a long run is not mixed with later edits, and so that a mutation can
// be applied without touching the checkout. Types are not checked here.

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);
const { version } = require('typescript/package.json');

export const checkoutRoot = resolve(dirname(fileURLToPath(import.meta.url)), '../../..');

const packages = [
  'protocol',
  'runtime',
  'raft-ts',
  'nbd-client-js',
  'replicator',
  'control-plane',
  'host-attach',
  'docker-plugin',
  'csi-driver',
  'node-agent',
  'sim',
];
/** Kept beside the sources, so that unchanged files are not transpiled again. */
const cacheFolder = join(checkoutRoot, 'node_modules/.cache/stor-sim');

/**
 * Builds a tree at `target`, after applying the patch files. A patch has paths from the root of the
 * checkout (`a/packages/...`). Throws with the output of `patch` when one does not fit. `copied`: the
 * packages to take from the checkout; the others stay as they are in the tree.
 */
export function buildTree(target, patches = [], copied = packages, from = checkoutRoot) {
  mkdirSync(target, { recursive: true });
  if (!existsSync(join(target, 'node_modules'))) {
    symlinkSync(join(checkoutRoot, 'node_modules'), join(target, 'node_modules'));
  }
  for (const name of copied) copyPackage(name, from, target);
  for (const patch of patches) applyPatch(target, patch);
  mkdirSync(cacheFolder, { recursive: true });
  for (const name of packages) {
    const folder = join(target, 'packages', name);
    for (const file of sourcesOf(join(folder, 'src'))) transpile(folder, file);
    for (const file of protosOf(join(folder, 'src'))) {
      const out = join(folder, 'dist', relative(folder, file));
      mkdirSync(dirname(out), { recursive: true });
      cpSync(file, out);
    }
  }
  return join(target, 'packages/sim/dist/src');
}

/** Adds the tests of one package, ready to be run by plain node: see `compiledTest`. */
export function addTests(target, name, from = checkoutRoot) {
  copyPackage(name, from, target, ['test']);
  const folder = join(target, 'packages', name);
  for (const file of sourcesOf(join(folder, 'test'))) transpile(folder, file);
  const fixtures = join(folder, 'test/fixtures');
  if (existsSync(fixtures)) {
    cpSync(fixtures, join(folder, 'dist/test/fixtures'), { recursive: true, force: true });
  }
}

/** Where `addTests` has put a test (`packages/NAME/test/...ts`). */
export function compiledTest(target, test) {
  const [, name, file] = /^packages\/([\w-]+)\/(test\/.+)\.ts$/.exec(test) ?? [];
  if (!name) throw new Error(`${test} is no test of a package`);
  return { name, path: join(target, 'packages', name, 'dist', `${file}.js`) };
}

function copyPackage(name, root, target, parts = ['package.json', 'src', 'proto', 'node_modules']) {
  const from = join(root, 'packages', name);
  const to = join(target, 'packages', name);
  mkdirSync(to, { recursive: true });
  for (const part of parts) {
    if (!existsSync(join(from, part))) continue;
    cpSync(join(from, part), join(to, part), {
      recursive: true,
      force: true,
      verbatimSymlinks: true,
    });
  }
}

function applyPatch(target, patch) {
  try {
    // exactly: elsewhere it would break something, and another rule than it says
    execFileSync('patch', ['-p1', '--fuzz=0', '--no-backup-if-mismatch', '-s', '-i', patch], {
      cwd: target,
      stdio: 'pipe',
    });
  } catch (error) {
    throw new Error(`${patch} does not apply:\n${String(error.stdout)}${String(error.stderr)}`);
  }
}

function transpile(folder, file) {
  const source = readFileSync(file, 'utf8');
  const hash = createHash('sha1').update(`${version}\0${source}`).digest('hex');
  const cached = join(cacheFolder, `${hash}.js`);
  let output;
  if (existsSync(cached)) output = readFileSync(cached, 'utf8');
  else {
    output = compile(source, file);
    // Another process may be about to read it.
    const unfinished = `${cached}.${process.pid}`;
    writeFileSync(unfinished, output);
    renameSync(unfinished, cached);
  }
  const out = join(folder, 'dist', relative(folder, file)).replace(/\.ts$/, '.js');
  mkdirSync(dirname(out), { recursive: true });
  writeFileSync(out, output);
}

function compile(source, fileName) {
  // only when something is new: the compiler takes longer to load than all the rest
  const ts = require('typescript');
  const compilerOptions = {
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    verbatimModuleSyntax: true,
    rewriteRelativeImportExtensions: true,
    inlineSourceMap: true,
    inlineSources: false,
  };
  return ts.transpileModule(source, { compilerOptions, fileName }).outputText;
}

function sourcesOf(folder) {
  return filesOf(folder).filter((file) => file.endsWith('.ts') && !file.endsWith('.d.ts'));
}

function protosOf(folder) {
  return filesOf(folder).filter((file) => file.endsWith('.proto') || file.endsWith('.json'));
}

function filesOf(folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? filesOf(path) : [path];
  });
}
