import type { Test } from 'tap';
import {
  checkCreation,
  checkIdentity,
  checkPublishing,
  checkVolumeCalls,
} from './check-controller.ts';
import { checkLifecycle } from './check-lifecycle.ts';
import { checkNode } from './check-node.ts';
import { checkGroups, checkMetadata, checkSnapshots } from './check-snapshots.ts';
import type { ConformanceTarget } from './target.ts';

export type { ConformanceTarget } from './target.ts';

/** Every call of the specification over the socket of a driver, with every error that it names. */
export function csiConformanceSuite(t: Test, target: ConformanceTarget): void {
  checkIdentity(t, target);
  checkCreation(t, target);
  checkVolumeCalls(t, target);
  checkPublishing(t, target);
  checkSnapshots(t, target);
  checkGroups(t, target);
  checkMetadata(t, target);
  checkNode(t, target);
  checkLifecycle(t, target);
}
