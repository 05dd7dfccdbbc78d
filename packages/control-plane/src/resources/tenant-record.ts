import type { QosSpec } from '@stor/protocol';
import { z } from 'zod';
import { decoder, qosSchema } from './records.ts';

export interface TenantRecord {
  id: string;
  name: string;
  createdAtMs: number;
  qos: QosSpec;
}

/** Of the limits, in parts of 10,000. */
export interface NodeShare {
  /** what it may use from now on */
  parts: number;
  /** what it may still use until it has confirmed that; never less than `parts` */
  atMost: number;
}

/** How a tenant's limits are divided among nodes; the sum of `atMost` is never more than there is. */
export interface TenantShares {
  nodes: Record<string, NodeShare>;
}

export const decodeTenant = decoder<TenantRecord>(
  'tenant',
  z.looseObject({
    id: z.string(),
    name: z.string(),
    createdAtMs: z.number(),
    qos: qosSchema.default({}),
  }),
);
export const decodeTenantShares = decoder<TenantShares>(
  'division of a tenant',
  z.looseObject({
    nodes: z.record(z.string(), z.looseObject({ parts: z.number(), atMost: z.number() })),
  }),
);
export const decodeSharesApplied = decoder<{ revision: number }>(
  'confirmation of shares',
  z.looseObject({ revision: z.number() }),
);
