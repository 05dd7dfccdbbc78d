/** The six limits that a volume may have; all counted at its primary, once per client request. */
export const qosLimitNames = [
  'readIops',
  'writeIops',
  'iops',
  'readBps',
  'writeBps',
  'bps',
] as const;
export type QosLimitName = (typeof qosLimitNames)[number];

/** The label whose values tell tenants apart. */
export const tenantLabel = 'tenant';

/** Share of a volume that names none. */
export const defaultQosWeight = 100;
export const minQosWeight = 1;
export const maxQosWeight = 10_000;

/** Unused tokens saved up to run above a limit for a time. */
export interface QosBurst {
  /** so many times the limit, 1 to 100 */
  factor: number;
  /** for at most so long from a full bucket (s), 1 to 3,600 */
  seconds: number;
}

/** What is wanted for a volume or a policy; what is left out is not limited, not guaranteed. */
export interface QosSpec {
  /** requests per second; TRIM and WRITE_ZEROES count as writes, FLUSH as nothing */
  readIops?: number;
  writeIops?: number;
  /** reads and writes together */
  iops?: number;
  /** bytes per second */
  readBps?: number;
  writeBps?: number;
  bps?: number;
  burst?: QosBurst;
  /** share of a contended lane beside other volumes; see defaultQosWeight */
  weight?: number;
  /** guaranteed requests per second, admitted by placement */
  minIops?: number;
  /** guaranteed bytes per second, admitted by placement */
  minBps?: number;
}

/** What a primary enforces: the volume's own wishes over those of its policy, and its tenant's share. */
export interface VolumeQos extends QosSpec {
  /**
   * The tenant whose volumes share one limit (its label value), with what of that limit falls to
   * this node now. All volumes of one tenant on a node draw from the same buckets.
   */
  tenant?: { name: string; share: QosSpec };
}
