import type { Attachment, AttachmentGrant } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';

/** Splits `host:port` and `[v6]:port`; port 0 when there is none. */
export function splitAddress(address: string): { host: string; port: number } {
  const at = address.lastIndexOf(':');
  if (at < 0) return { host: address, port: 0 };
  const host = address.slice(0, at).replace(/^\[(.*)\]$/, '$1');
  return { host, port: Number(address.slice(at + 1)) || 0 };
}

/** What the new primary is told: the record that granted, and where the replicas' nodes listen. */
export function grantOf(
  record: StoredVolume,
  attachment: Attachment,
  previousReleased: boolean,
  state: ClusterState,
): AttachmentGrant {
  return {
    volumeId: record.metadata.id,
    name: record.metadata.name,
    sizeBytes: record.spec.sizeBytes,
    epoch: attachment.epoch,
    mode: attachment.mode,
    previousReleased,
    segments: record.status.segments.map((segment) => ({
      index: segment.index,
      setRevision: segment.setRevision,
      inSync: segment.inSync,
      replicas: segment.replicas.map(({ id, nodeId, diskId }) => {
        const address = state.nodes.get(nodeId)?.value.addresses.peers[0] ?? '';
        return { id, nodeId, diskId, ...splitAddress(address) };
      }),
    })),
  };
}
