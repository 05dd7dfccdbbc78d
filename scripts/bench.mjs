// npm run bench [-- --quick]: IOPS, latency and CPU per I/O beside qemu-nbd on this machine.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { bootstrapOrExit, checkoutRoot } from './bootstrap.mjs';
import { runCommand } from './run-command.mjs';

await bootstrapOrExit();
const file = join(checkoutRoot, 'benchmarks/dist/src/bench.js');
if (!existsSync(file)) {
  process.stderr.write('error: benchmarks/src/bench.ts is not there, so there is nothing to run\n');
  process.exitCode = 1;
} else {
  process.exitCode = await runCommand(
    process.execPath,
    [file, ...process.argv.slice(2)],
    checkoutRoot,
  );
}
