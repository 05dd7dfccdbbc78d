import { StorError } from '@stor/protocol';
import type { Publication } from '@stor/protocol';
import { publicationsOf } from '../core/volume/publication-rules.ts';
import { isUp, nodeName } from '../resources/cluster-state.ts';
import type { ClusterState } from '../resources/cluster-state.ts';
import type { StoredVolume } from '../resources/records.ts';

/** Which host uses the volume as a device, and what helps. Details: holder (node name), since (ISO). */
export function publishedElsewhere(
  record: StoredVolume,
  holder: Publication,
  state: ClusterState,
): StorError {
  const { text, details } = usedOn(record, holder, state);
  const down = isUp(state, holder.nodeId) ? '' : ', which is down';
  return new StorError('ATTACHED_ELSEWHERE', `${text}${down}: ${advice(record, details.holder)}`, {
    details,
  });
}

/** FAILED_PRECONDITION: what was asked needs a volume that no host uses. Details as above. */
export function checkUnpublished(record: StoredVolume, state: ClusterState): void {
  const [holder] = publicationsOf(record);
  if (!holder) return;
  const { text, details } = usedOn(record, holder, state);
  throw new StorError('FAILED_PRECONDITION', `${text}: ${advice(record, details.holder)}`, {
    details,
  });
}

function usedOn(
  record: StoredVolume,
  holder: Publication,
  state: ClusterState,
): { text: string; details: { holder: string; since: string } } {
  const since = new Date(holder.sinceMs).toISOString();
  const node = nodeName(state, holder.nodeId);
  const owner = holder.owner === '' ? '' : ` (${holder.owner})`;
  const { name } = record.metadata;
  return {
    text: `volume ${name} is used as a device on node ${node} since ${since}${owner}`,
    details: { holder: node, since },
  };
}

function advice({ metadata }: StoredVolume, node: string): string {
  return `stop what uses it, unmount and detach it there first; what is left of a host that is gone for good ends with "storctl volume unpublish ${metadata.name} --node ${node}"`;
}
