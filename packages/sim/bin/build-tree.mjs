// Copies the sources of the packages that the simulator runs into a folder of its own and strips
// their types there, so that a long run is not mixed with later edits, and so that a mutation can
// be applied without touching the checkout. Types are not checked here.

import { execFileSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

export const checkoutRoot = resolve(dirname(fileURLToPath(import.meta.url)), '../../..');

const packages = [
  'protocol',
  'runtime',
  'raft-ts',
  'nbd-client-js',
  'replicator',
  'control-plane',
  'node-agent',
  'sim',
];
/** Kept beside the sources, so that unchanged files are not transpiled again. */
const cacheFolder = join(checkoutRoot, 'node_modules/.cache/stor-sim');

const compilerOptions = {
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.ESNext,
  verbatimModuleSyntax: true,
  rewriteRelativeImportExtensions: true,
  inlineSourceMap: true,
  inlineSources: false,
};

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
  const key = `${hash(source)}-${ts.version}.js`;
  const cached = join(cacheFolder, key);
  let output;
  if (existsSync(cached)) output = readFileSync(cached, 'utf8');
  else {
    const result = ts.transpileModule(source, { compilerOptions, fileName: file });
    output = result.outputText;
    writeFileSync(cached, output);
  }
  const out = join(folder, 'dist', relative(folder, file)).replace(/\.ts$/, '.js');
  mkdirSync(dirname(out), { recursive: true });
  writeFileSync(out, output);
}

function hash(text) {
  let low = 0x811c9dc5;
  let high = 0x1234567;
  for (let at = 0; at < text.length; at++) {
    low = Math.imul(low ^ text.charCodeAt(at), 0x01000193);
    high = Math.imul(high ^ low, 0x85ebca6b) + at;
  }
  return `${(high >>> 0).toString(16)}${(low >>> 0).toString(16)}-${text.length}`;
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
