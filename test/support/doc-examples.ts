import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkoutRoot } from '../../benchmarks/src/harness/checkout.ts';
import { runCommand, type CommandResult } from '../../benchmarks/src/harness/run-command.ts';

/** The code blocks of a page of this repository whose text matches, in their order. */
export function codeBlocks(page: string, pattern: RegExp): string[] {
  const text = readFileSync(join(checkoutRoot(), page), 'utf8');
  const blocks = [...text.matchAll(/^```[a-z]*\n(.*?)^```$/gms)].map((match) => match[1] ?? '');
  return blocks.filter((block) => pattern.test(block));
}

/** What an example says, and what it is here; throws for one that does not say it. */
export function adapted(block: string, places: readonly (readonly [string, string])[]): string {
  return places.reduce((text, [from, to]) => {
    if (!text.includes(from)) throw new Error(`${JSON.stringify(from)} is not in:\n${block}`);
    return text.replaceAll(from, to);
  }, block);
}

/** Runs lines as a user's shell would, and stops at the first that fails. */
export function runShell(
  lines: string,
  place: { cwd: string; env: Readonly<Record<string, string>> },
): Promise<CommandResult> {
  return runCommand('bash', ['-euo', 'pipefail', '-c', lines], place);
}
