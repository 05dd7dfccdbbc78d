import { StorError } from '@stor/protocol';
import type { NodeIntent } from '@stor/protocol';

/** A node's record, as far as an operator's wishes go. */
export interface IntendedNode {
  spec?: NodeIntent;
}

/** Why the node takes nothing new (`is ...`), or null when it does. */
export function cordonOf(node: IntendedNode | undefined): string | null {
  const { cordoned, drain, evacuate, maintenance, decommission } = node?.spec ?? {};
  if (decommission) return 'is being decommissioned';
  if (evacuate) return 'is being evacuated';
  if (drain) return 'is drained';
  // it is about to go down, or to come back: what is put on it now would be away first
  if (maintenance) return 'is in maintenance';
  if (!cordoned) return null;
  return cordoned.reason === '' ? 'is cordoned' : `is cordoned (${cordoned.reason})`;
}

/** New replicas may be placed on it. */
export function takesReplicas(node: IntendedNode | undefined): boolean {
  return cordonOf(node) === null;
}

/** Volumes may newly be attached on it; those that are stay. */
export function takesAttachments(node: IntendedNode | undefined): boolean {
  return cordonOf(node) === null;
}

/** Its replicas are not replaced although it is away. `nowMs` is of the wall clock. */
export function isInMaintenance(node: IntendedNode | undefined, nowMs: number): boolean {
  const { maintenance } = node?.spec ?? {};
  return maintenance !== undefined && nowMs < maintenance.untilMs;
}

/** Whether it is about to be stopped by an operator, whether or not that has come: plans count it as away. */
export function mayStop(node: IntendedNode | undefined): boolean {
  return node?.spec?.maintenance !== undefined;
}

/** Its replicas are to move elsewhere. */
export function isEvacuated(node: IntendedNode | undefined): boolean {
  return node?.spec?.evacuate !== undefined || node?.spec?.decommission !== undefined;
}

/** Its attachments are to move elsewhere. */
export function isDrained(node: IntendedNode | undefined): boolean {
  return node?.spec?.drain !== undefined || node?.spec?.decommission !== undefined;
}

/** The record with another wish; a wish of which nothing is left is not written. */
export function withIntent<N extends IntendedNode>(node: N, intent: NodeIntent): N {
  const { spec: _spec, ...rest } = node;
  const isEmpty = Object.values(intent).every((part) => part === undefined);
  return isEmpty ? (rest as N) : ({ ...rest, spec: intent } as unknown as N);
}

/** FAILED_PRECONDITION: an order names a node that takes nothing new. */
export function cordoned(name: string, cordon: string): StorError {
  return new StorError(
    'FAILED_PRECONDITION',
    `node ${name} ${cordon}, so nothing is attached there newly: name another node, or run "storctl node uncordon ${name}" first`,
  );
}
