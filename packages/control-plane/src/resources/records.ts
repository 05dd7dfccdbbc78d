import type {
  ClusterSettings,
  NodeAddresses,
  NodeIntent,
  ReplicaId,
  ScrubSettings,
  SnapshotId,
  VolumeId,
  VolumeOrigin,
  VolumeRecord,
} from '@stor/protocol';
import { defaultPolicy, StorError } from '@stor/protocol';
import { z } from 'zod';
import type { ScrubRecord } from '../core/scrub/scrub-record.ts';
import type { EventRecord } from '../core/events/event-record.ts';

/**
 * What lies in the cluster store, as JSON. Objects are loose and states are plain strings: a record
 * written by a newer version keeps what this one does not know when it is written back.
 */
const labels = z.record(z.string(), z.string());
const addresses = z.looseObject({
  api: z.string(),
  http: z.string(),
  peers: z.array(z.string()),
  nbd: z.array(z.string()),
  nbdUnix: z.array(z.string()),
  nbdTls: z.string().optional(),
});

const clusterSchema = z.looseObject({
  clusterId: z.string(),
  name: z.string(),
  createdAtMs: z.number(),
});

const since = z.looseObject({ sinceMs: z.number() });

const nodeIntent = z.looseObject({
  cordoned: z.looseObject({ sinceMs: z.number(), reason: z.string() }).optional(),
  drain: since.optional(),
  evacuate: since.optional(),
  maintenance: z.looseObject({ sinceMs: z.number(), untilMs: z.number() }).optional(),
  decommission: since.optional(),
});

const nodeSchema = z.looseObject({
  id: z.string(),
  name: z.string(),
  labels,
  createdAtMs: z.number(),
  addresses,
  agentInstance: z.string(),
  bootId: z.string(),
  version: z.string(),
  downSinceMs: z.number().optional(),
  spec: nodeIntent.optional(),
  computeOnly: z.boolean().optional(),
});

const nodeLeaseSchema = z.looseObject({
  agentInstance: z.string(),
  bootId: z.string(),
  addresses,
});

const diskSchema = z.looseObject({
  id: z.string(),
  nodeId: z.string(),
  path: z.string(),
  tag: z.string(),
  createdAtMs: z.number(),
  state: z.string(),
  message: z.string(),
  capacityBytes: z.number(),
  usedBytes: z.number(),
  freeBytes: z.number(),
  unusableSinceMs: z.number().optional(),
  labels: labels.optional(),
  device: z.string().optional(),
  reservedBytes: z.number().optional(),
  evacuate: z.boolean().optional(),
  trouble: z.string().optional(),
  lane: z.number().int().optional(),
  replicaBytes: z.record(z.string(), z.number()).optional(),
  iopsCapacity: z.number().optional(),
  bpsCapacity: z.number().optional(),
});

const settingsSchema = z.looseObject({
  overprovisionPercent: z.number().optional(),
  repairReservePercent: z.number().optional(),
});

const replicaReportSchema = z.looseObject({
  replicaId: z.string(),
  volumeId: z.string(),
  nodeId: z.string(),
  /** ready, failed, deleted */
  state: z.string(),
  /** error code of a failed one, else '' */
  code: z.string(),
  message: z.string(),
});

/** Small, because there may be thousands: their volume is in the key too. */
const snapshotSchema = z.looseObject({
  id: z.string(),
  volumeId: z.string(),
  name: z.string(),
  labels,
  createdAtMs: z.number(),
  sizeBytes: z.number(),
  /** creating, ready, deleting */
  state: z.string(),
  groupId: z.string().default(''),
  pausedMs: z.number().default(0),
  message: z.string().default(''),
  requestId: z.string().default(''),
  isHidden: z.boolean().default(false),
  dropped: z.array(z.string()).default([]),
  neverReady: z.boolean().optional(),
});

/** Every field may be missing: what a record does not say has its default. */
const policySchema = z.looseObject({
  failureMode: z.string().optional(),
  onLoss: z.string().optional(),
  ioTimeoutMs: z.number().optional(),
  replacementWaitMs: z.number().optional(),
  unflushedLoss: z.string().optional(),
  rebuildPaused: z.boolean().optional(),
  shared: z.boolean().optional(),
});

const affinityRule = z.looseObject({
  labels,
  required: z.boolean(),
  domain: z.string().optional(),
});

const placementSchema = z.looseObject({
  required: z.array(z.string()).optional(),
  preferred: z.array(z.string()).optional(),
  nodeSelector: labels.optional(),
  affinity: z.array(affinityRule).optional(),
  antiAffinity: z.array(affinityRule).optional(),
});

/** Every field may be missing: what is absent is not limited, not guaranteed. */
export const qosSchema = z.looseObject({
  readIops: z.number().optional(),
  writeIops: z.number().optional(),
  iops: z.number().optional(),
  readBps: z.number().optional(),
  writeBps: z.number().optional(),
  bps: z.number().optional(),
  burst: z.looseObject({ factor: z.number(), seconds: z.number() }).optional(),
  weight: z.number().optional(),
  minIops: z.number().optional(),
  minBps: z.number().optional(),
});

const removedReplica = z.looseObject({
  id: z.string(),
  nodeId: z.string(),
  diskId: z.string(),
  unused: z.boolean().optional(),
});

const segmentSchema = z.looseObject({
  index: z.number(),
  setRevision: z.number(),
  replicas: z.array(
    z.looseObject({
      id: z.string(),
      nodeId: z.string(),
      diskId: z.string(),
      state: z.string(),
      purpose: z.string().optional(),
      placedAtMs: z.number().optional(),
      leaving: z.boolean().optional(),
      filled: z.boolean().optional(),
      cloneOf: z.looseObject({ replicaId: z.string(), snapshotId: z.string() }).optional(),
    }),
  ),
  inSync: z.array(z.string()),
  unconfirmed: z.looseObject({ epoch: z.number(), members: z.array(z.string()) }).optional(),
  changedAtMs: z.number().optional(),
  removed: z.array(removedReplica).optional(),
});

const volumeSchema = z.looseObject({
  metadata: z.looseObject({
    id: z.string(),
    name: z.string(),
    labels,
    createdAtMs: z.number(),
    resourceVersion: z.number(),
  }),
  spec: z.looseObject({
    sizeBytes: z.number(),
    segmentBytes: z.number().optional(),
    replicas: z.number(),
    diskTag: z.string().optional(),
    placement: placementSchema.optional(),
    attachTo: z.string().optional(),
    policy: policySchema.default({}),
    qos: qosSchema.optional(),
    policyName: z.string().optional(),
  }),
  status: z.looseObject({
    phase: z.string(),
    message: z.string(),
    epoch: z.number(),
    attachment: z
      .looseObject({
        nodeId: z.string(),
        agentInstance: z.string(),
        epoch: z.number(),
        mode: z.string(),
        sinceMs: z.number(),
      })
      .nullable(),
    publications: z
      .array(
        z.looseObject({
          id: z.string(),
          nodeId: z.string(),
          readOnly: z.boolean(),
          owner: z.string(),
          sinceMs: z.number(),
        }),
      )
      .optional(),
    cleanRelease: z.boolean(),
    acceptLossSinceEpoch: z.number().optional(),
    segments: z.array(segmentSchema),
    growth: z
      .looseObject({
        sizeBytes: z.number(),
        sinceMs: z.number(),
        segments: z.array(segmentSchema),
      })
      .optional(),
    rollback: z
      .looseObject({
        id: z.string(),
        snapshotId: z.string(),
        safetyId: z.string(),
        force: z.boolean(),
        sinceMs: z.number(),
      })
      .optional(),
  }),
  requestId: z.string().default(''),
  requestHash: z.string().optional(),
  trash: z
    .looseObject({
      deletedAtMs: z.number(),
      keptUntilMs: z.number(),
      agedMs: z.number().optional(),
    })
    .optional(),
  origin: z
    .looseObject({
      volumeId: z.string(),
      volume: z.string(),
      snapshotId: z.string(),
      snapshot: z.string(),
    })
    .optional(),
  failure: z.looseObject({ code: z.string(), message: z.string() }).nullable().default(null),
});

const eventSchema = z.looseObject({
  id: z.string(),
  type: z.string(),
  reason: z.string(),
  object: z.looseObject({ kind: z.string(), id: z.string(), name: z.string() }),
  volumeId: z.string(),
  volume: z.string(),
  node: z.string(),
  message: z.string(),
  count: z.number(),
  firstMs: z.number(),
  lastMs: z.number(),
});

const scrubCounts = z.looseObject({
  bytes: z.number(),
  found: z.number(),
  repaired: z.number(),
  kept: z.number(),
  diverged: z.number(),
});

const scrubSchema = z.looseObject({
  volumeId: z.string(),
  run: z
    .looseObject({
      id: z.string(),
      reason: z.string(),
      startedAtMs: z.number(),
      paused: z.boolean(),
      message: z.string(),
      position: z.looseObject({ segment: z.number(), chunk: z.number() }),
      counts: scrubCounts,
      bytesRemaining: z.number().nullable(),
      bytesPerSecond: z.number(),
      seenAtMs: z.number(),
    })
    .nullable(),
  history: z.array(
    z.looseObject({
      runId: z.string(),
      reason: z.string(),
      startedAtMs: z.number(),
      endedAtMs: z.number(),
      complete: z.boolean(),
      counts: scrubCounts,
    }),
  ),
});

const scrubSettingsSchema = z.looseObject({
  everyMs: z.number(),
  rateBytesPerSecond: z.number(),
});

const requestSchema = z.looseObject({
  hash: z.string(),
  objectId: z.string(),
  state: z.string(),
  sinceMs: z.number(),
  answer: z.string().optional(),
  note: z.string().optional(),
});

/** A request that a client gave an id. */
export interface RequestRecord {
  /** of what was asked, so that an id is not taken for another request */
  hash: string;
  /** what its name meant when it was taken; '': it is about no object */
  objectId: string;
  /** begun, made */
  state: string;
  sinceMs: number;
  /** as JSON; absent: not known, or too long */
  answer?: string;
  /** what the answer needs besides the object */
  note?: string;
}

export interface ClusterRecord {
  clusterId: string;
  name: string;
  createdAtMs: number;
}

export interface NodeRecord {
  id: string;
  name: string;
  labels: Record<string, string>;
  createdAtMs: number;
  addresses: NodeAddresses;
  agentInstance: string;
  bootId: string;
  version: string;
  /**
   * When the leader's controllers first saw it without a lease, by the wall clock; absent while it
   * is up. It is kept here so that a change of leader does not begin the wait for a replacement anew.
   */
  downSinceMs?: number;
  /** what an operator wants of it; absent: nothing but that it serves */
  spec?: NodeIntent;
  /** It had no disk when it started last; absent: it had one. It may have been given one since. */
  computeOnly?: boolean;
}

/** Value of a node's lease key: who holds it. */
export interface NodeLeaseRecord {
  agentInstance: string;
  bootId: string;
  addresses: NodeAddresses;
}

export interface DiskRecord {
  id: string;
  nodeId: string;
  path: string;
  tag: string;
  createdAtMs: number;
  state: string;
  message: string;
  capacityBytes: number;
  usedBytes: number;
  freeBytes: number;
  /** when its node first found it failed or missing, by the wall clock; absent while it is online */
  unusableSinceMs?: number;
  labels?: Record<string, string>;
  /** the block device that is mounted at `path`; absent: a directory */
  device?: string;
  reservedBytes?: number;
  /** an operator wants it empty: it takes no replica, and those that it has move elsewhere */
  evacuate?: boolean;
  /** why it is not to be trusted although it answers (I/O errors); as `evacuate`. Absent: it is */
  trouble?: string;
  /** which lane of its node has it; absent: 0 */
  lane?: number;
  /**
   * What its replicas take, the largest ones. As old as the record, which is written when the disk's
   * use has changed notably: good enough to plan where replicas fit.
   */
  replicaBytes?: Record<string, number>;
  /** what may be guaranteed on it, in requests and bytes per second; absent: no bound */
  iopsCapacity?: number;
  bpsCapacity?: number;
}

/** What is absent has its default. */
export type SettingsRecord = Partial<ClusterSettings>;

export interface ReplicaReport {
  replicaId: string;
  volumeId: string;
  nodeId: string;
  state: string;
  code: string;
  message: string;
}

export interface StoredVolume extends VolumeRecord {
  /** chosen by the client that created it; a repeated request finds its volume by it */
  requestId: string;
  /** of that request, by which it is told apart from another one with its id; absent: not known */
  requestHash?: string;
  /**
   * While it is in the trash: since when, and until when it is kept at least, by the wall clock; and how
   * much of that time leaders have counted.
   */
  trash?: { deletedAtMs: number; keptUntilMs: number; agedMs?: number };
  /** what it is a clone of, as it was named then; `snapshot` '': of the live volume */
  origin?: VolumeOrigin;
  /** why a creation was rolled back; null for a volume that was deleted by its owner */
  failure: { code: string; message: string } | null;
}

export interface SnapshotRecord {
  id: SnapshotId;
  volumeId: VolumeId;
  name: string;
  labels: Record<string, string>;
  createdAtMs: number;
  /** of the volume when it was taken */
  sizeBytes: number;
  state: string;
  /** the same for those of one instant; '' for one of its own */
  groupId: string;
  /** how long clients were paused for it (ms) */
  pausedMs: number;
  /** why it is being deleted; '' when somebody asked for it */
  message: string;
  requestId: string;
  /** taken for a clone of a live volume: it has no name, is not shown, and goes when that is made */
  isHidden: boolean;
  /** while `deleting`: the replicas that do not have it any more, or keep it as an orphan */
  dropped: ReplicaId[];
  /**
   * While `deleting`: no record ever called it ready. A replica that has it ready proves that the records
   * are older than the data, and keeps it.
   */
  neverReady?: boolean;
}

export function encodeRecord(record: object): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(record));
}

/** INTERNAL when the bytes are not such a record: never guessed at, never overwritten. */
export function decoder<T>(kind: string, schema: z.ZodType): (key: string, value: Uint8Array) => T {
  return (key, value) => {
    let json: unknown;
    try {
      json = JSON.parse(new TextDecoder().decode(value));
    } catch (error) {
      throw new StorError('INTERNAL', `${key} holds no ${kind}: it is not JSON`, { cause: error });
    }
    const parsed = schema.safeParse(json);
    if (parsed.success) return parsed.data as T;
    const issue = parsed.error.issues[0];
    const where = issue ? `${issue.path.join('.')}: ${issue.message}` : 'unreadable';
    throw new StorError('INTERNAL', `${key} holds no ${kind}: ${where}`);
  };
}

export const decodeCluster = decoder<ClusterRecord>('cluster', clusterSchema);
export const decodeNode = decoder<NodeRecord>('node', nodeSchema);
export const decodeNodeLease = decoder<NodeLeaseRecord>('node lease', nodeLeaseSchema);
export const decodeDisk = decoder<DiskRecord>('disk', diskSchema);
export const decodeSettings = decoder<SettingsRecord>('settings', settingsSchema);
const decodeStored = decoder<StoredVolume>('volume', volumeSchema);
export const decodeScrub = decoder<ScrubRecord>('scrub', scrubSchema);
export const decodeScrubSettings = decoder<ScrubSettings>('scrub settings', scrubSettingsSchema);
export const decodeEvent = decoder<EventRecord>('event', eventSchema);
export const decodeReplicaReport = decoder<ReplicaReport>('replica report', replicaReportSchema);

export const decodeRequest = decoder<RequestRecord>('request', requestSchema);

export const decodeSnapshot = decoder<SnapshotRecord>('snapshot', snapshotSchema);

/** A record from before policies, or before one of their fields, has the defaults. */
export function decodeVolume(key: string, value: Uint8Array): StoredVolume {
  const record = decodeStored(key, value);
  const policy = { ...defaultPolicy(record.spec.replicas), ...record.spec.policy };
  return { ...record, spec: { ...record.spec, policy } };
}
