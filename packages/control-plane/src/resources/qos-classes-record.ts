import type { QosClass } from '@stor/protocol';
import { z } from 'zod';
import { decoder } from './records.ts';

/** What operators have set; a class of a later version is kept, and not used. */
export interface QosClassesRecord {
  classes: Record<string, Pick<QosClass, 'weight' | 'iops' | 'bps'>>;
}

export const decodeQosClasses = decoder<QosClassesRecord>(
  'QoS classes',
  z.looseObject({
    classes: z.record(
      z.string(),
      z.looseObject({ weight: z.number(), iops: z.number(), bps: z.number() }),
    ),
  }),
);
