import type { VolumeId } from '../ids.ts';

/**
 * Why an event was written. Names are an interface: people filter by them. A newer node may write
 * others.
 */
export type EventReason =
  | 'bad-block-found'
  | 'bad-block-repaired'
  | 'bad-block-kept'
  | 'replicas-differ'
  | 'replica-failed'
  | 'replica-rebuilt'
  | 'disk-failed'
  | 'disk-nearly-full'
  | 'disk-full'
  | 'volume-no-space'
  | 'snapshot-created'
  | 'snapshot-deleted'
  | 'snapshot-failed'
  | 'scrub-finished'
  | 'scrub-stopped'
  | 'node-cordoned'
  | 'node-uncordoned'
  | 'node-drain-started'
  | 'node-drained'
  | 'node-evacuation-started'
  | 'node-evacuated'
  | 'node-maintenance-started'
  | 'node-maintenance-ended'
  | 'node-decommission-started'
  | 'node-decommissioned'
  | 'node-forgotten'
  | 'node-order-cancelled'
  | 'node-order-refused'
  | 'member-added'
  | 'member-removed'
  | 'voter-added'
  | 'voter-removed'
  | 'placement-violated'
  | 'placement-kept'
  | 'rebalance-started'
  | 'rebalance-paused'
  | 'rebalance-stopped'
  | 'rebalance-finished'
  | 'rebalance-move-failed'
  | 'events-dropped';

export type EventObjectKind = 'cluster' | 'node' | 'disk' | 'volume' | 'replica' | 'snapshot';

/** What a part of the system tells of: `EventLog.note` makes an event of it. */
export interface EventNote {
  /** warning: somebody should look */
  type: 'normal' | 'warning';
  reason: EventReason;
  /** `name`: for people; absent: as the record of that id says */
  object: { kind: EventObjectKind; id: string; name?: string };
  /** the volume that it is about, if it is about one; absent: the object itself, or none */
  volumeId?: VolumeId;
  /** one sentence for people; of a repeated event the last one is kept */
  message: string;
  /** how many of them this note stands for @default 1 */
  count?: number;
}

/** Something that happened: `storctl events`. */
export interface StorEvent {
  /** in the order in which they began */
  id: string;
  type: EventNote['type'];
  /** an `EventReason`, or one of a newer version */
  reason: string;
  object: { kind: string; id: string; name: string };
  /** id and name of the volume that it is about; '' when it is about none */
  volumeId: VolumeId;
  volume: string;
  /** name of the node that wrote it last */
  node: string;
  message: string;
  /** the same reason and object again, within ten minutes of the first */
  count: number;
  /** by the wall clock of the node that wrote it */
  firstMs: number;
  lastMs: number;
  /** store revision of its last change */
  resourceVersion: number;
}
