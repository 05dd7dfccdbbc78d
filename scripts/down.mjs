// npm run down [-- --purge]: stops the agents of this checkout; their data stays without --purge.

import { bootstrapOrExit, checkoutRoot } from './bootstrap.mjs';
import { withLock } from './lock.mjs';

const lockWaitMs = 120_000;

// Whoever stops reading must not leave half of the agents running.
process.stdout.on('error', () => {});

await bootstrapOrExit();
const { runDown } = await import('../packages/cli/dist/src/checkout/down.js');
process.exitCode = await withLock({ root: checkoutRoot, name: 'cluster', waitMs: lockWaitMs }, () =>
  runDown(process.argv.slice(2), checkoutRoot, process),
);
