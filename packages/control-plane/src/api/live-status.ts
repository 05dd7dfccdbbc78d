import { StorError } from '@stor/protocol';
import type { NodeId, VolumeId } from '@stor/protocol';
import type { Logger } from '@stor/runtime';
import type { LiveVolume } from '../agent-port.ts';
import type { AgentPeers } from '../agent/agent-peers.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import type { StoredVolume } from '../resources/records.ts';

/** Volumes that a node is asked about by name; for more of them it tells of all that it has. */
const maxNamed = 64;

/**
 * What primaries say of their volumes: each is asked once, all at the same time; one that does not
 * answer soon is left out.
 */
export async function liveStatus(
  volumes: readonly Versioned<StoredVolume>[],
  state: ClusterState,
  options: { peers: AgentPeers; logger: Logger },
): Promise<Map<VolumeId, LiveVolume>> {
  const holderOf = new Map<VolumeId, NodeId>();
  const heldBy = new Map<NodeId, VolumeId[]>();
  for (const { value } of volumes) {
    const holder = value.status.attachment?.nodeId;
    if (holder === undefined || !state.leases.has(holder)) continue;
    holderOf.set(value.metadata.id, holder);
    const held = heldBy.get(holder) ?? [];
    held.push(value.metadata.id);
    heldBy.set(holder, held);
  }
  const live = new Map<VolumeId, LiveVolume>();
  await Promise.all(
    [...heldBy].map(async ([nodeId, ids]) => {
      try {
        // naming many costs more than the few others that their node would tell of besides
        const asked = ids.length <= maxNamed ? ids : undefined;
        for (const seen of await options.peers.at(nodeId).liveVolumes(asked)) {
          if (holderOf.get(seen.volumeId) === nodeId) live.set(seen.volumeId, seen);
        }
      } catch (error) {
        const { message } = StorError.from(error);
        options.logger.debug({ nodeId, error: message }, 'no live status');
      }
    }),
  );
  return live;
}
