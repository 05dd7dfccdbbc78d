import type { ServiceDefinition } from '@grpc/grpc-js';
import { commonVersion, formatVersions, parseVersions, StorError } from '@stor/protocol';
import type { VersionRange } from '@stor/protocol';
import { kvLevel } from '../core/kv/kv-limits.ts';

/**
 * The calls between members of the embedded store. They carry bytes of our own (`raft-ts` messages
 * and envelopes of `core/kv`), so the definition is made here and not from a .proto file.
 *
 *   Send        stream of pieces (raft-frames.ts) -> nothing; lives as long as the connection
 *   Execute     a command (kv-command.ts) -> its result; only the leader does it
 *   ReadIndex   {} -> { index }: a quorum round begun after the call; only the leader
 *   RenewLease  { leaseId } -> {}; only the leader
 *   Members     {} -> { members }: how far each of them is; only the leader
 */
const serviceName = 'stor.internal.v1.Raft';
export const sendPath = `/${serviceName}/Send`;

/** gRPC hands over what is sent as it is, and what is received as a Buffer. */
export const toBytes = (value: Uint8Array): Buffer =>
  Buffer.from(value.buffer, value.byteOffset, value.byteLength);
export const fromBytes = (value: Buffer): Uint8Array => value;

function method(name: string, requestStream: boolean): ServiceDefinition[string] {
  return {
    path: `/${serviceName}/${name}`,
    requestStream,
    responseStream: false,
    requestSerialize: toBytes,
    requestDeserialize: fromBytes,
    responseSerialize: toBytes,
    responseDeserialize: fromBytes,
  };
}

export const raftServiceDefinition: ServiceDefinition = {
  Send: method('Send', true),
  Execute: method('Execute', false),
  ReadIndex: method('ReadIndex', false),
  RenewLease: method('RenewLease', false),
  Members: method('Members', false),
};

/**
 * Versions of what the calls carry: the messages of Raft, commands and answers. A caller names its range
 * with each call, and a stream is accepted with the version that both speak: it is written in that one.
 * The other calls are in the lowest that the caller names, as it cannot know better.
 */
export const raftVersions: VersionRange = { min: 1, max: 1 };
export const versionHeader = 'stor-raft-version';
/** A caller that names none is from before there were several. */
const rangelessVersions = '1-1';

/** Who calls. */
export interface CallerIdentity {
  clusterId: string;
  /** changes when the cluster's store is made anew, from a backup or one survivor; '' at first */
  storeId: string;
  id: string;
  /** host:port at which it is called back; '' when only configurations say so */
  address: string;
  /** @default `raftVersions` */
  versions?: VersionRange;
}

/** Metadata of every call: as of the agents' other calls, and the member that calls. */
export function callMetadata(self: CallerIdentity, to: string): Record<string, string> {
  return {
    'stor-cluster-id': self.clusterId,
    'stor-node-id': to,
    'stor-from-id': self.id,
    'stor-raft-versions': formatVersions(self.versions ?? raftVersions),
    'stor-kv-level': String(kvLevel),
    ...(self.storeId === '' ? {} : { 'stor-store-id': self.storeId }),
    ...(self.address === '' ? {} : { 'stor-from-address': self.address }),
  };
}

/**
 * PERMISSION_DENIED unless the call is of this cluster and store, and meant for this member: a port
 * may have been given to another process since, and a member from before the store was made anew has
 * another truth. PROTOCOL when there is no version that both speak. Whether the caller is a member is not
 * asked here. Returns who calls.
 */
export function checkCaller(
  call: { header(name: string): string },
  self: CallerIdentity,
): { id: string; address: string; version: number } {
  const clusterId = call.header('stor-cluster-id');
  if (clusterId !== self.clusterId) {
    throw new StorError(
      'PERMISSION_DENIED',
      `this is a member of cluster ${self.clusterId}, the call is of cluster ${clusterId || '(none)'}`,
    );
  }
  const to = call.header('stor-node-id');
  if (to !== self.id) {
    throw new StorError('PERMISSION_DENIED', `this is member ${self.id}, the call is for ${to}`);
  }
  const id = call.header('stor-from-id');
  const storeId = call.header('stor-store-id');
  if (storeId !== self.storeId) {
    throw new StorError(
      'PERMISSION_DENIED',
      `the cluster store was made anew: ${id} has its part of ${storeId || 'the first one'}, this is a member of ${self.storeId || 'the first one'}; let the one that is behind join again with --discard-store`,
    );
  }
  const versions = parseVersions(call.header('stor-raft-versions') || rangelessVersions);
  const version = commonVersion(self.versions ?? raftVersions, versions, {
    protocol: 'the protocol of the cluster store',
    own: `member ${self.id}`,
    other: `member ${id}`,
  });
  return { id, address: call.header('stor-from-address'), version };
}
