/**
 * Loaded into an agent before its own code (`node --import`), for measuring what metrics cost: no request
 * is counted, and none is put into a histogram. The product has no switch for this.
 */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { checkoutRoot } from '../harness/checkout.ts';

const file = join(checkoutRoot(), 'packages/node-agent/dist/src/nbd/nbd-stats.js');
const { OperationStats } = (await import(pathToFileURL(file).href)) as {
  OperationStats: { prototype: { record(): void } };
};
OperationStats.prototype.record = () => {};
