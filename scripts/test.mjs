// npm test [-- FILE... or tap options]: everything, or the files named.

import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { bootstrapOrExit, checkoutRoot } from './bootstrap.mjs';
import { runCommand } from './run-command.mjs';

await bootstrapOrExit();
const { stripAll } = await import('./strip-types.mjs');
stripAll();
const loader = pathToFileURL(join(checkoutRoot, 'scripts/test-loader.mjs'));
process.env.NODE_OPTIONS = `${process.env.NODE_OPTIONS ?? ''} --import=${loader}`.trim();
const tap = join(checkoutRoot, 'node_modules/.bin/tap');
process.exitCode = await runCommand(tap, process.argv.slice(2), checkoutRoot);
