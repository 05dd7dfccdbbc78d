import { StorError } from '@stor/protocol';
import { decodeEnvelope, encodeEnvelope } from './envelope.ts';
import { countField } from './field.ts';
import type { KvResult } from './kv-state.ts';

const statuses: readonly KvResult['status'][] = [
  'done',
  'leaseNotFound',
  'leaseExists',
  'full',
  'forgotten',
];

/** PROTOCOL for one that this program does not know. */
export function statusField(value: unknown): KvResult['status'] {
  const known = statuses.find((status) => status === value);
  if (!known) throw new StorError('PROTOCOL', `request of unknown status ${String(value)}`);
  return known;
}

export function encodeResult({ status, succeeded, revision }: KvResult): Uint8Array {
  return encodeEnvelope({ status, succeeded: succeeded ? 1 : 0, revision });
}

export function decodeResult(bytes: Uint8Array): KvResult {
  const { header } = decodeEnvelope(bytes);
  return {
    status: statusField(header['status']),
    succeeded: countField(header['succeeded'], 'succeeded') === 1,
    revision: countField(header['revision'], 'revision'),
  };
}
