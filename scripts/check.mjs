// npm run check: what CI runs, in the order in which a mistake is cheapest to find.

import { join } from 'node:path';

const usage = `usage: npm run check [-- TEST FILE... or tap options]
Compiles, lints, looks at the format and runs the tests: all, or the files named.
`;
const args = process.argv.slice(2);
if (args.includes('--help') || args.includes('-h')) {
  process.stdout.write(usage);
  process.exit(0);
}
const { bootstrapOrExit, checkoutRoot } = await import('./bootstrap.mjs');
const { runCommand } = await import('./run-command.mjs');

await bootstrapOrExit();
const bin = (name) => join(checkoutRoot, 'node_modules/.bin', name);
const steps = [
  ['build', bin('tsc'), ['-b', '.', 'test']],
  ['lint', bin('eslint'), ['.']],
  ['format', bin('prettier'), ['--check', '.']],
  ['test', process.execPath, [join(checkoutRoot, 'scripts/test.mjs'), ...args]],
];
const failed = [];
for (const [name, command, given] of steps) {
  process.stdout.write(`== ${name}\n`);
  if ((await runCommand(command, given, checkoutRoot)) !== 0) failed.push(name);
}
process.stdout.write(
  failed.length === 0 ? 'check: all passed\n' : `check: FAILED: ${failed.join(', ')}\n`,
);
process.exitCode = failed.length === 0 ? 0 : 1;
