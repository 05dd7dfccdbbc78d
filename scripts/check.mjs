// npm run check: what CI runs, in the order in which a mistake is cheapest to find.

import { join } from 'node:path';
import { bootstrapOrExit, checkoutRoot } from './bootstrap.mjs';
import { runCommand } from './run-command.mjs';

await bootstrapOrExit();
const bin = (name) => join(checkoutRoot, 'node_modules/.bin', name);
const steps = [
  ['build', bin('tsc'), ['-b', '.', 'test']],
  ['lint', bin('eslint'), ['.']],
  ['format', bin('prettier'), ['--check', '.']],
  ['test', bin('tap'), process.argv.slice(2)],
];
const failed = [];
for (const [name, command, args] of steps) {
  process.stdout.write(`== ${name}\n`);
  if ((await runCommand(command, args, checkoutRoot)) !== 0) failed.push(name);
}
process.stdout.write(
  failed.length === 0 ? 'check: all passed\n' : `check: FAILED: ${failed.join(', ')}\n`,
);
process.exitCode = failed.length === 0 ? 0 : 1;
