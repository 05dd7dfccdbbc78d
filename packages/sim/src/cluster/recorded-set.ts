import type { VolumeRecord } from '@stor/protocol';

import type { CommittedSet } from './sim-cluster.ts';

/** The set of a volume's first segment, as its record says. */
export function recordedSet(record: VolumeRecord): CommittedSet {
  const [segment] = record.status.segments;
  const { unconfirmed, inSync = [] } = segment ?? {};
  const isUnconfirmed = unconfirmed?.epoch === record.status.epoch;
  return {
    volume: record.metadata.name,
    epoch: record.status.epoch,
    setRevision: segment?.setRevision ?? 0,
    inSync: [...inSync],
    whole: isUnconfirmed ? unconfirmed.members : [...inSync],
  };
}
