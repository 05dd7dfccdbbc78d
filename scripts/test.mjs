// npm test [-- FILE... or tap options]: everything, or the files named.

import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { bootstrapOrExit, checkoutRoot } from './bootstrap.mjs';
import { runCommand } from './run-command.mjs';

const usage = `usage: npm test [-- FILE... or tap options]
Runs all tests, or the files named: npm test -- packages/cli/test/core.test.ts --reporter=terse
node_modules/.bin/tap --help has the options of tap, CONTRIBUTING.md the variables of long runs.
`;
const args = process.argv.slice(2);
if (args.includes('--help') || args.includes('-h')) {
  process.stdout.write(usage);
  process.exit(0);
}
await bootstrapOrExit();
const { stripAll } = await import('./strip-types.mjs');
stripAll();
const loader = pathToFileURL(join(checkoutRoot, 'scripts/test-loader.mjs'));
process.env.NODE_OPTIONS = `${process.env.NODE_OPTIONS ?? ''} --import=${loader}`.trim();
const tap = join(checkoutRoot, 'node_modules/.bin/tap');
process.exitCode = await runCommand(tap, args, checkoutRoot);
