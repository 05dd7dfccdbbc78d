// pnpm sim [--seeds N] [--first-seed N] [--minutes N] [--jobs N] [--mutation NAME] [--replay SEED]
// Whole clusters in one process from seeds: see packages/sim/README.md.

import { bootstrapOrExit } from './bootstrap.mjs';

await bootstrapOrExit();
await import('../packages/sim/bin/sim.mjs');
