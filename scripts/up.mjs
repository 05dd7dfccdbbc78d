// npm run up [-- --nodes N --base-port P --dir PATH]: a cluster of real agents on loopback.

import { bootstrapOrExit, checkoutRoot } from './bootstrap.mjs';
import { withLock } from './lock.mjs';

const lockWaitMs = 120_000;

// "npm run up | head -3": what was begun is finished although nobody reads on.
process.stdout.on('error', () => {});

await bootstrapOrExit();
const { runUp } = await import('../packages/cli/dist/src/checkout/up.js');
// Two at once would both find an agent missing and both start it.
process.exitCode = await withLock({ root: checkoutRoot, name: 'cluster', waitMs: lockWaitMs }, () =>
  runUp(process.argv.slice(2), checkoutRoot, process),
);
