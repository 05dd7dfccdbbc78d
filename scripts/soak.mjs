// npm run soak -- [--minutes N] [--seed N]: faults without end in network namespaces.

import { join } from 'node:path';
import { bootstrapOrExit, checkoutRoot } from './bootstrap.mjs';
import { runCommand } from './run-command.mjs';

await bootstrapOrExit();
const file = join(checkoutRoot, 'benchmarks/dist/src/soak/main.js');
process.exitCode = await runCommand(
  process.execPath,
  [file, ...process.argv.slice(2)],
  checkoutRoot,
);
