import type { NodeId } from '../ids.ts';
import type { QosSpec } from '../qos.ts';
import type { Metadata } from './metadata.ts';

/** Limits that all volumes with one value of the label `tenant` have together, wherever they are attached. */
export interface Tenant {
  /** `name`: the value of the label */
  metadata: Metadata;
  spec: { qos: QosSpec };
  status: {
    /** with that label */
    volumes: number;
    /** nodes where some of them are attached, and what each may use of the limits (parts of 10,000) */
    nodes: { nodeId: NodeId; node: string; parts: number }[];
  };
}
