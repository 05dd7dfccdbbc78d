import type { NodeId } from '@stor/protocol';
import type { LiveVolume } from '../../agent-port.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';

/** All that is known of one volume at one moment, for those who explain it. */
export interface VolumeSight {
  volume: Versioned<StoredVolume>;
  state: ClusterState;
  /** what its primary says of itself; null: it was not asked, or did not answer */
  live: LiveVolume | null;
  /** the node that answers */
  nodeId: NodeId;
  /** false: the cluster store could not be asked, so all this is what this node knew last */
  isCurrent: boolean;
  nowWallMs: number;
  /** a wall-clock time for people */
  timeText(wallMs: number): string;
}

/** `41s`, `7m`, `3h`, `2d`: whole units, never less than a second. */
export function formatWait(ms: number): string {
  const seconds = Math.max(1, Math.ceil(ms / 1000));
  if (seconds < 120) return `${seconds}s`;
  const minutes = Math.ceil(seconds / 60);
  if (minutes < 120) return `${minutes}m`;
  const hours = Math.ceil(minutes / 60);
  return hours < 48 ? `${hours}h` : `${Math.ceil(hours / 24)}d`;
}
