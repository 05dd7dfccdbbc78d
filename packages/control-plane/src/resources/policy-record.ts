import type { QosSpec } from '@stor/protocol';
import { z } from 'zod';
import { decoder, qosSchema } from './records.ts';

/** A policy as the cluster store keeps it, under its name. */
export interface PolicyRecord {
  id: string;
  name: string;
  createdAtMs: number;
  description: string;
  qos: QosSpec;
  /** of the request that made it; '': it had no id */
  requestId: string;
  requestHash: string;
}

/** Which of those that come with Stor were made once, whatever became of them. */
export interface ShippedPolicies {
  names: string[];
}

const policySchema = z.looseObject({
  id: z.string(),
  name: z.string(),
  createdAtMs: z.number(),
  description: z.string().default(''),
  qos: qosSchema.default({}),
  requestId: z.string().default(''),
  requestHash: z.string().default(''),
});

export const decodePolicy = decoder<PolicyRecord>('policy', policySchema);
export const decodeShippedPolicies = decoder<ShippedPolicies>(
  'list of policies',
  z.looseObject({ names: z.array(z.string()) }),
);
