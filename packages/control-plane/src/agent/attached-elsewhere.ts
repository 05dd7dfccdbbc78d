import { StorError } from '@stor/protocol';
import type { Attachment } from '@stor/protocol';
import { nodeName } from '../resources/cluster-state.ts';
import type { ClusterState } from '../resources/cluster-state.ts';
import type { StoredVolume } from '../resources/records.ts';

const kinds: Record<Attachment['mode'], string> = {
  auto: 'clients are connected there',
  manual: 'attached there by hand',
  repair: 'being repaired there',
};

/** Who holds the volume, since when, and what helps. Details: holder (node name), since (ISO). */
export function attachedElsewhere(
  record: StoredVolume,
  holder: Attachment,
  state: ClusterState,
): StorError {
  const { name } = record.metadata;
  const node = nodeName(state, holder.nodeId);
  const since = new Date(holder.sinceMs).toISOString();
  return new StorError(
    'ATTACHED_ELSEWHERE',
    `volume ${name} is attached on node ${node} since ${since} (${kinds[holder.mode]}): to free it, run "storctl volume detach ${name}"`,
    { details: { holder: node, since } },
  );
}

/** FAILED_PRECONDITION: what was asked needs a volume that nobody uses. */
export function inUse(record: StoredVolume, holder: Attachment, state: ClusterState): StorError {
  const { message, details } = attachedElsewhere(record, holder, state);
  return new StorError('FAILED_PRECONDITION', message, { details: { ...details } });
}

/** UNAVAILABLE: the holder was asked in vain, and may still be serving. */
export function notAnswering(
  record: StoredVolume,
  holder: Attachment,
  state: ClusterState,
): StorError {
  const name = nodeName(state, holder.nodeId);
  const { details } = attachedElsewhere(record, holder, state);
  return new StorError(
    'UNAVAILABLE',
    `volume ${record.metadata.name} is attached on node ${name}, which does not answer and whose lease still runs: try again in some seconds; if that node does not come back, run "storctl volume fence ${record.metadata.name}"`,
    { details: { ...details } },
  );
}
