import { cpSync, existsSync, mkdirSync, readdirSync, symlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { checkoutRoot } from '../../harness/checkout.ts';
import { describeResult, runCommand } from '../../harness/run-command.ts';

/** Compiling all packages of an agent from nothing on a busy machine of two cores (ms). */
const buildMs = 10 * 60_000;
const skipped = new Set(['.git', 'results', '.tap', '.stor', 'coverage']);

/** What an agent is made of. */
export interface BuiltVersion {
  /** its folder */
  dir: string;
  mainFile: string;
  protocolFile: string;
}

/** This checkout as it is, with a patch. */
export async function buildPatched(dir: string, patch: string): Promise<BuiltVersion> {
  const root = checkoutRoot();
  cpSync(root, dir, {
    recursive: true,
    preserveTimestamps: true,
    verbatimSymlinks: true,
    // what the packages depend on are links, which lead to the one folder of all
    filter: (from) => !skipped.has(basename(from)) && from !== join(root, 'node_modules'),
  });
  await must('git', ['apply', patch], dir);
  return build(dir);
}

/** An earlier commit of this repository; null: the history here does not reach it. */
export async function buildCommit(dir: string, commit: string): Promise<BuiltVersion | null> {
  const root = checkoutRoot();
  const known = await runCommand('git', ['cat-file', '-e', `${commit}^{commit}`], { cwd: root });
  if (known.code !== 0) return null;
  mkdirSync(dir, { recursive: true });
  const archive = join(dir, 'source.tar');
  await must('git', ['archive', '--output', archive, commit], root);
  await must('tar', ['-xf', archive, '-C', dir], dir);
  for (const name of readdirSync(join(dir, 'packages'))) {
    const links = join('packages', name, 'node_modules');
    if (!existsSync(join(root, links))) continue;
    cpSync(join(root, links), join(dir, links), { recursive: true, verbatimSymlinks: true });
  }
  return build(dir);
}

async function build(dir: string): Promise<BuiltVersion> {
  const root = checkoutRoot();
  symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'));
  const compiler = join(root, 'node_modules/typescript/bin/tsc');
  await must(process.execPath, [compiler, '-b', 'packages/node-agent'], dir);
  return {
    dir,
    mainFile: join(dir, 'packages/node-agent/dist/src/main.js'),
    protocolFile: join(dir, 'packages/protocol/dist/src/index.js'),
  };
}

async function must(command: string, args: readonly string[], cwd: string): Promise<void> {
  const result = await runCommand(command, args, { cwd, timeoutMs: buildMs });
  if (result.code !== 0) throw new Error(describeResult(result));
}
