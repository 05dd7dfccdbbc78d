// npm run sim: whole clusters in one process from seeds. See packages/sim/README.md; --help has the options.

import { bootstrapOrExit } from './bootstrap.mjs';

await bootstrapOrExit();
await import('../packages/sim/bin/sim.mjs');
