import type { QosSpec } from '../qos.ts';
import type { Metadata } from './metadata.ts';

/**
 * Wishes of quality of service that several volumes share by its name (`VolumeRecord.spec.policyName`).
 * Not a volume's failure policy, which is `VolumePolicy`.
 */
export interface Policy {
  metadata: Metadata;
  spec: {
    /** for people */
    description: string;
    qos: QosSpec;
  };
  status: {
    /** that name it, those in the trash too */
    volumes: number;
  };
}
