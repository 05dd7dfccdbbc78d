// TypeScript sources as JavaScript, kept by their content: what was compiled once is only read. Types
// are not checked here; "npm run build" does that.

import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const cacheFolder = join(root, 'node_modules/.cache/stor-test');
const require = createRequire(import.meta.url);
const { version } = require('typescript/package.json');
/** Folders that hold no sources of tests. */
const skippedFolders = new Set(['node_modules', 'dist', 'results', '.tap', '.stor', '.git']);

/** The JavaScript of a file, with the places in the file that it comes from. */
export function strippedSource(path) {
  const source = readFileSync(path, 'utf8');
  const hash = createHash('sha1').update(`${version}\0${path}\0${source}`).digest('hex');
  const cached = join(cacheFolder, `${hash}.js`);
  try {
    return readFileSync(cached, 'utf8');
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
  const output = transpile(path, source);
  mkdirSync(cacheFolder, { recursive: true });
  // Test files run beside each other: none may read half a file of another.
  const unfinished = `${cached}.${process.pid}`;
  writeFileSync(unfinished, output);
  renameSync(unfinished, cached);
  return output;
}

/** Fills the cache: the compiler is loaded once, not in every process that meets a new file. */
export function stripAll() {
  for (const folder of ['packages', 'benchmarks', 'test']) stripBelow(join(root, folder));
}

function stripBelow(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      if (!skippedFolders.has(entry.name)) stripBelow(path);
    } else if (/(?<!\.d)\.ts$/.test(entry.name)) strippedSource(path);
  }
}

function transpile(path, source) {
  // only when a file is new: it takes longer to load than most test files to run
  const ts = require('typescript');
  return ts.transpileModule(source, {
    fileName: path,
    compilerOptions: {
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.ESNext,
      verbatimModuleSyntax: true,
      inlineSourceMap: true,
      inlineSources: false,
    },
  }).outputText;
}
