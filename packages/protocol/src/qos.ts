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

/** Who asks for I/O: clients, or the cluster for itself. */
export const qosClassNames = ['client', 'rebuild', 'resync', 'scrub', 'backup'] as const;
export type QosClassName = (typeof qosClassNames)[number];
/** What the cluster does for itself beside clients. */
export type BackgroundClass = Exclude<QosClassName, 'client'>;
export const backgroundClasses = ['rebuild', 'resync', 'scrub', 'backup'] as const;

/** How one class shares each lane of each node with the others. */
export interface QosClass {
  name: QosClassName;
  /** share of a contended lane beside the other classes */
  weight: number;
  /** pieces of work per second of each node at most; 0: no limit */
  iops: number;
  /** bytes per second of each node at most, each piece counted once on each node; 0: no limit */
  bps: number;
}

/** Redundancy that is lost comes before a check of what is there; clients before both. */
export const defaultQosClasses: readonly QosClass[] = [
  { name: 'client', weight: 100, iops: 0, bps: 0 },
  { name: 'rebuild', weight: 50, iops: 0, bps: 0 },
  { name: 'resync', weight: 50, iops: 0, bps: 0 },
  { name: 'scrub', weight: 20, iops: 0, bps: 0 },
  { name: 'backup', weight: 20, iops: 0, bps: 0 },
];

/** What is to be changed of a class: absent stays, 0 is the default. */
export interface QosClassChange {
  name: string;
  weight?: number | null;
  iops?: number | null;
  bps?: number | null;
}
