import type { Attachment, NodeId } from '@stor/protocol';
import { isUp, nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { volumesOn } from '../../resources/state-index.ts';
import { holderLives } from '../controllers/attachment-rules.ts';
import { cordonOf, takesAttachments } from './node-intent.ts';

/** A volume that is to be attached elsewhere than on its node. */
export interface AttachmentMove {
  volume: Versioned<StoredVolume>;
  /** null: nobody holds it, an operator only wants it on the node */
  holder: Attachment | null;
  /** null: no other node takes it, for `reason` */
  toNodeId: NodeId | null;
  reason: string;
}

/**
 * Which attachments of a node would go where, one after the other, so that they spread. Those by clients
 * and those by hand go alike, for the node is about to stop serving; those for repair end by themselves.
 */
export function attachmentMoves(state: ClusterState, nodeId: NodeId): AttachmentMove[] {
  const load = new Map<NodeId, number>();
  const moves: AttachmentMove[] = [];
  const volumes = volumesOn(state.volumes, nodeId).filter(({ value }) =>
    isHere(state, value, nodeId),
  );
  volumes.sort((a, b) => (a.value.metadata.name < b.value.metadata.name ? -1 : 1));
  for (const volume of volumes) {
    const { attachment } = volume.value.status;
    const holder = attachment?.nodeId === nodeId && lives(state, attachment) ? attachment : null;
    const toNodeId = bestPrimary(state, volume.value, { not: nodeId, load });
    if (toNodeId !== null) load.set(toNodeId, (load.get(toNodeId) ?? 0) + 1);
    const reason = toNodeId === null ? nobodyText(state, nodeId) : '';
    moves.push({ volume, holder, toNodeId, reason });
  }
  return moves;
}

function isHere(state: ClusterState, { spec, status }: StoredVolume, nodeId: NodeId): boolean {
  if (status.phase !== 'ready') return false;
  const { attachment } = status;
  const isHeld = attachment !== null && lives(state, attachment);
  if (isHeld) return attachment.nodeId === nodeId && attachment.mode !== 'repair';
  return spec.attachTo === nodeId;
}

function lives(state: ClusterState, holder: Attachment): boolean {
  return holderLives(holder, state.leases.get(holder.nodeId)?.value ?? null);
}

/**
 * The best node to be primary of a volume: one that has most of its data in sync, for reads are served
 * from there; then the one with the fewest attachments. Null when no node takes it.
 */
export function bestPrimary(
  state: ClusterState,
  volume: StoredVolume,
  { not, load }: { not: NodeId; load: ReadonlyMap<NodeId, number> },
): NodeId | null {
  const { segments } = volume.status;
  const copies = (id: NodeId): number =>
    segments.filter(({ replicas, inSync }) =>
      replicas.some((r) => r.nodeId === id && r.leaving !== true && inSync.includes(r.id)),
    ).length;
  const attached = (id: NodeId): number => {
    const here = volumesOn(state.volumes, id);
    const count = here.filter(({ value }) => value.status.attachment?.nodeId === id).length;
    return count + (load.get(id) ?? 0);
  };
  const able = [...state.nodes.values()]
    .map(({ value }) => value)
    .filter((node) => node.id !== not && isUp(state, node.id) && takesAttachments(node))
    .map(({ id, name }) => ({ id, name, copies: copies(id) }));
  const most = Math.max(0, ...able.map((node) => node.copies));
  const best = able
    .filter((node) => node.copies === most)
    .map((node) => ({ ...node, attached: attached(node.id) }))
    .sort((a, b) => a.attached - b.attached || (a.name < b.name ? -1 : 1))[0];
  return best?.id ?? null;
}

/** Why no node but this one takes attachments. */
function nobodyText(state: ClusterState, not: NodeId): string {
  const others = [...state.nodes.values()].map(({ value }) => value).filter(({ id }) => id !== not);
  if (others.length === 0) return 'there is no other node';
  const reasons = others.map((node) => {
    const why = isUp(state, node.id) ? cordonOf(node) : 'is down';
    return `${nodeName(state, node.id)} ${why ?? ''}`;
  });
  return `no other node takes it: ${reasons.sort().join('; ')}`;
}
