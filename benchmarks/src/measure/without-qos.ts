/**
 * Loaded into an agent before its own code (`node --import`), for measuring what quality of service
 * costs and what it is good for: connections go straight to the primary, no request is looked at.
 * The product has no switch for this.
 */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { checkoutRoot } from '../harness/checkout.ts';

/** As far as connections use it. */
interface Volume {
  update(): void;
  device(primary: object): object;
  close(): void;
}

const file = join(checkoutRoot(), 'packages/node-agent/dist/src/qos/lane-qos.js');
const { LaneQos } = (await import(pathToFileURL(file).href)) as {
  LaneQos: { prototype: { open(): Volume } };
};
LaneQos.prototype.open = () => ({
  update: () => {},
  device: (primary) => Object.assign(primary, { takeBack: () => [] }),
  close: () => {},
});
