import type { ServiceDefinition } from '@grpc/grpc-js';
import { StorError } from '@stor/protocol';

/**
 * The calls between members of the embedded store. They carry bytes of our own (`raft-ts` messages
 * and envelopes of `core/kv`), so the definition is made here and not from a .proto file.
 *
 *   Send        stream of pieces (raft-frames.ts) -> nothing; lives as long as the connection
 *   Execute     a command (kv-command.ts) -> its result; only the leader does it
 *   ReadIndex   {} -> { index }: a quorum round begun after the call; only the leader
 *   RenewLease  { leaseId } -> {}; only the leader
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
};

/** Metadata of every call: as of the agents' other calls, and the member that calls. */
export function callMetadata(
  clusterId: string,
  from: string,
  to: string,
): { 'stor-cluster-id': string; 'stor-node-id': string; 'stor-from-id': string } {
  return { 'stor-cluster-id': clusterId, 'stor-node-id': to, 'stor-from-id': from };
}

/**
 * PERMISSION_DENIED unless the call is of a member of this cluster and meant for this member: a
 * port may have been given to another process since. Returns the calling member.
 */
export function checkCaller(
  call: { header(name: string): string },
  self: { clusterId: string; id: string; memberIds: ReadonlySet<string> },
): string {
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
  const from = call.header('stor-from-id');
  if (!self.memberIds.has(from)) {
    throw new StorError('PERMISSION_DENIED', `${from || 'the caller'} is no member of the cluster`);
  }
  return from;
}
