// Makes a checkout runnable: installs the dependencies and compiles, each only when needed.
//
// Two stamps in node_modules/ say for which input that was last done. bin/storctl calls this each
// time, so the path where nothing has changed reads a few small files and stats the sources.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { withLock } from './lock.mjs';

const installStamp = 'node_modules/.stor-install-stamp';
const buildStamp = 'node_modules/.stor-build-stamp';
/** An install over a slow line takes minutes; a second process waits that long for the first. */
const lockWaitMs = 10 * 60_000;
/** Folders that hold no input of the compiled programs. Tests run from source. */
const skippedFolders = new Set(['node_modules', 'dist', 'test', 'results', '.tap']);

export const checkoutRoot = resolve(dirname(fileURLToPath(import.meta.url)), '..');

/**
 * Installs and compiles what is out of date. Throws BootstrapError with the log of what failed.
 *
 * @param {{
 *   root?: string,
 *   say?: (line: string) => void,
 *   run?: (command: string, args: string[], root: string) => Promise<{ status: number, log: string }>,
 * }} [options] `run` and `say` are for tests
 * @returns {Promise<{ installed: boolean, built: boolean }>}
 */
export async function bootstrap({ root = checkoutRoot, say = sayToStderr, run = runLogged } = {}) {
  if (installIsCurrent(root) && buildIsCurrent(root)) return { installed: false, built: false };
  checkNodeVersion(root);
  const onWait = () =>
    say('stor: another process installs or builds this checkout; waiting for it');
  return withLock({ root, name: 'bootstrap', waitMs: lockWaitMs, onWait }, async () => {
    const done = { installed: false, built: false };
    if (!installIsCurrent(root)) {
      say('stor: installing dependencies (once, and again when pnpm-lock.yaml changes)');
      const stamp = installFingerprint(root);
      await step(run, root, 'npx', ['--yes', 'pnpm@10', 'install', '--frozen-lockfile']);
      writeStamp(root, installStamp, stamp);
      done.installed = true;
    }
    if (done.installed || !buildIsCurrent(root)) {
      say('stor: compiling');
      // Taken before the compiler starts: a file saved while it runs makes the next run compile.
      const stamp = buildFingerprint(root);
      await step(run, root, process.execPath, ['node_modules/typescript/bin/tsc', '-b']);
      writeStamp(root, buildStamp, stamp);
      done.built = true;
    }
    return done;
  });
}

export class BootstrapError extends Error {}

async function step(run, root, command, args) {
  const { status, log } = await run(command, args, root);
  if (status === 0) return;
  throw new BootstrapError(
    `${log.trimEnd()}\nstor: "${[command, ...args].join(' ')}" failed with status ${status}; its log is above`,
  );
}

/** pnpm keeps a copy of the lock file that it installed: an install by hand counts too. */
function installIsCurrent(root) {
  const stamp = readText(join(root, installStamp));
  if (stamp !== null) return stamp === installFingerprint(root);
  const installed = readText(join(root, 'node_modules/.pnpm/lock.yaml'));
  if (installed === null || installed !== readText(join(root, 'pnpm-lock.yaml'))) return false;
  writeStamp(root, installStamp, installFingerprint(root));
  return true;
}

function buildIsCurrent(root) {
  if (readText(join(root, buildStamp)) !== buildFingerprint(root)) return false;
  return projectFolders(root).every((folder) => existsSync(join(root, folder, 'dist')));
}

/** Content, not times: git touches these files whenever it switches branches. */
function installFingerprint(root) {
  const hash = createHash('sha256');
  const manifests = ['.', ...projectFolders(root)].map((folder) => join(folder, 'package.json'));
  for (const path of ['pnpm-lock.yaml', 'pnpm-workspace.yaml', '.npmrc', ...manifests]) {
    hash.update(`${path}\0${readText(join(root, path)) ?? ''}\0`);
  }
  return hash.digest('hex');
}

/** Times and sizes: reading every source at each start of storctl would take too long. */
function buildFingerprint(root) {
  const hash = createHash('sha256');
  for (const path of ['tsconfig.json', 'tsconfig.base.json']) addFile(hash, root, path);
  for (const folder of projectFolders(root)) addFolder(hash, root, folder);
  return hash.digest('hex');
}

function addFolder(hash, root, folder) {
  const entries = readdirSync(join(root, folder), { withFileTypes: true });
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const entry of entries) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      if (!skippedFolders.has(entry.name)) addFolder(hash, root, path);
    } else if (/\.(ts|json|proto)$/.test(entry.name)) {
      addFile(hash, root, path);
    }
  }
}

function addFile(hash, root, path) {
  const stat = statSync(join(root, path), { throwIfNoEntry: false });
  hash.update(`${path}\0${stat ? `${stat.mtimeMs} ${stat.size}` : 'absent'}\0`);
}

function projectFolders(root) {
  const folders = [];
  const packages = join(root, 'packages');
  for (const name of existsSync(packages) ? readdirSync(packages).sort() : []) {
    folders.push(join('packages', name));
  }
  folders.push('benchmarks');
  return folders.filter((folder) => existsSync(join(root, folder, 'tsconfig.json')));
}

function checkNodeVersion(root) {
  const wanted = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).engines?.node ?? '';
  const [, major, minor] = /^>=(\d+)\.(\d+)/.exec(wanted) ?? [];
  if (major === undefined) return;
  const [haveMajor, haveMinor] = process.versions.node.split('.').map(Number);
  if (haveMajor > Number(major) || (haveMajor === Number(major) && haveMinor >= Number(minor))) {
    return;
  }
  throw new BootstrapError(
    `stor: Node ${process.versions.node} is too old: Stor needs Node ${wanted.slice(2)} or newer (nodejs.org)`,
  );
}

function runLogged(command, args, root) {
  return new Promise((resolvePromise, reject) => {
    // CI=true: pnpm asks nothing, also when it wants to replace a node_modules of another version.
    const child = spawn(command, args, {
      cwd: root,
      env: { ...process.env, CI: 'true' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let log = '';
    child.stdout.on('data', (bytes) => (log += String(bytes)));
    child.stderr.on('data', (bytes) => (log += String(bytes)));
    child.once('error', (error) =>
      reject(new BootstrapError(`stor: cannot run "${command}": ${error.message}`)),
    );
    child.once('close', (status) => resolvePromise({ status: status ?? 1, log }));
  });
}

function readText(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return null;
    throw error;
  }
}

function writeStamp(root, path, text) {
  mkdirSync(join(root, 'node_modules'), { recursive: true });
  writeFileSync(join(root, path), text);
}

function sayToStderr(line) {
  process.stderr.write(`${line}\n`);
}

/** For scripts: bootstraps, or prints why not and ends the process with status 1. */
export async function bootstrapOrExit() {
  // An image that ships dist/ has neither compiler nor sources.
  if (process.env.STOR_SKIP_BUILD === '1') return;
  try {
    await bootstrap();
  } catch (error) {
    process.stderr.write(`${error instanceof BootstrapError ? error.message : error.stack}\n`);
    process.exit(1);
  }
}

if (process.argv[1] !== undefined && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  await bootstrapOrExit();
}
