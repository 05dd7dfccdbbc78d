import { publishedExportName, StorError } from '@stor/protocol';
import type {
  NodeId,
  Publication,
  PublicationId,
  PublicationView,
  VolumeSettings,
} from '@stor/protocol';
import { nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { checkChangeable } from './change-volume.ts';

/** Hosts that use one shared volume: what is kept of them is in its record, which must stay small. */
export const maxPublications = 64;
/** Characters of `owner`, which is shown in one line. */
const maxOwnerChars = 128;

/**
 * Publications, as changes of one volume record (ADR 19). Whoever applies them writes the result only if
 * the record is still the one they were given.
 */
export type PublishDecision =
  /** the host has it already */
  | { type: 'present'; publication: Publication }
  /** so has this host, and the new one may not */
  | { type: 'held'; holder: Publication }
  | {
      type: 'publish';
      record: StoredVolume;
      publication: Publication;
      /** hosts that lose it: what counts is that they are still down when this is written */
      lost: Publication[];
    };

export interface PublishRequest {
  nodeId: NodeId;
  readOnly: boolean;
  owner: string;
  /** a host that is down keeps it */
  keepDead: boolean;
  /** for a new publication */
  newId: PublicationId;
  nowWallMs: number;
}

/** INVALID_ARGUMENT unless it can be shown in one line. */
export function checkOwner(owner: string): void {
  if (owner.length <= maxOwnerChars && !/\p{Cc}/u.test(owner)) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `owner ${JSON.stringify(owner.slice(0, maxOwnerChars))} is not valid: use at most ${maxOwnerChars} characters of one line`,
  );
}

/**
 * FAILED_PRECONDITION, ALREADY_EXISTS (details: holder). `isUp`: the node holds its node lease.
 */
export function decidePublish(
  record: StoredVolume,
  request: PublishRequest,
  state: ClusterState,
  isUp: (nodeId: NodeId) => boolean,
): PublishDecision {
  checkChangeable(record);
  const { name } = record.metadata;
  const publications = publicationsOf(record);
  const own = publications.find(({ nodeId }) => nodeId === request.nodeId);
  if (own) {
    if (own.readOnly === request.readOnly) return { type: 'present', publication: own };
    throw new StorError(
      'ALREADY_EXISTS',
      `volume ${name} is published to node ${nodeName(state, own.nodeId)} ${own.readOnly ? 'read-only' : 'for writing'} already: unpublish it first`,
      { details: { holder: nodeName(state, own.nodeId) } },
    );
  }
  if (record.status.rollback) {
    throw new StorError('FAILED_PRECONDITION', `volume ${name} is being rolled back`);
  }
  const lost = request.keepDead ? [] : publications.filter(({ nodeId }) => !isUp(nodeId));
  const staying = publications.filter((each) => !lost.includes(each));
  const [holder] = staying;
  if (holder && !record.spec.policy.shared) return { type: 'held', holder };
  if (staying.length >= maxPublications) {
    throw new StorError(
      'FAILED_PRECONDITION',
      `volume ${name} is published to ${staying.length} hosts, and more are not possible`,
    );
  }
  const { nodeId, readOnly, owner, nowWallMs, newId: id } = request;
  const publication: Publication = { id, nodeId, readOnly, owner, sinceMs: nowWallMs };
  const changed = withPublications(record, [...staying, publication]);
  return { type: 'publish', record: changed, publication, lost };
}

/** Null when there is nothing to end. `publication` '': whichever the node has; `nodeId` null: all. */
export function unpublished(
  record: StoredVolume,
  nodeId: NodeId | null,
  publication: PublicationId,
): StoredVolume | null {
  const publications = publicationsOf(record);
  const staying = publications.filter(
    (each) =>
      (nodeId !== null && each.nodeId !== nodeId) ||
      (publication !== '' && each.id !== publication),
  );
  return staying.length === publications.length ? null : withPublications(record, staying);
}

export function publicationsOf(record: StoredVolume): Publication[] {
  return record.status.publications ?? [];
}

/** For the settings of a primary. */
export function publishedTo(record: StoredVolume): Pick<VolumeSettings, 'publications'> {
  const publications = publicationsOf(record);
  if (publications.length === 0) return {};
  return { publications: publications.map(({ id, readOnly }) => ({ id, readOnly })) };
}

export function describePublications(record: StoredVolume, state: ClusterState): PublicationView[] {
  return publicationsOf(record).map((each) => ({
    ...each,
    node: nodeName(state, each.nodeId),
    exportName: publishedExportName(each.id, record.metadata.name),
  }));
}

function withPublications(record: StoredVolume, publications: Publication[]): StoredVolume {
  const { publications: _before, ...status } = record.status;
  const left = publications.length === 0 ? {} : { publications };
  return { ...record, status: { ...status, ...left } };
}
