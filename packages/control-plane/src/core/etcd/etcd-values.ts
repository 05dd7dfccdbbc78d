import { StorError } from '@stor/protocol';
import type { KeyValue, Transaction } from '../../cluster-store.ts';
import type { EtcdKeyValue } from './etcd-messages.ts';

/** Limits of an etcd server with its defaults. */
export const etcdLimits = {
  /** of compares, and of operations, in one transaction: --max-txn-ops */
  maxTransactionItems: 128,
  /** keys and values of one transaction, with room for framing below --max-request-bytes 1572864 */
  maxTransactionBytes: 1_400_000,
} as const;

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const maxLeaseId = 2n ** 63n - 1n;
const leasePattern = /^[1-9][0-9]{0,18}$/;

export const keyBytes = (key: string): Uint8Array => encoder.encode(key);
export const keyText = (key: Uint8Array): string => decoder.decode(key);

/** The first key after all that begin with the prefix (printable ASCII, not empty). */
export function rangeEnd(prefix: string): Uint8Array {
  const bytes = encoder.encode(prefix);
  const last = bytes.length - 1;
  bytes[last] = (bytes[last] ?? 0) + 1;
  return bytes;
}

/** A lease id as ours; empty: none. */
export const leaseText = (lease: string): string => (lease === '0' ? '' : lease);

/** Whether the id can be one of etcd's: others certainly do not exist. */
export function isLeaseId(id: string): boolean {
  return leasePattern.test(id) && BigInt(id) <= maxLeaseId;
}

/** A lease id from random bytes: positive, so that etcd takes it. */
export function leaseIdFrom(random: Uint8Array): string {
  let id = 0n;
  for (const byte of random.subarray(0, 8)) id = (id << 8n) | BigInt(byte);
  return String(id & maxLeaseId || 1n);
}

/** `keyPrefix`: taken off the key. */
export function itemOf(kv: EtcdKeyValue, keyPrefix: string): KeyValue {
  return {
    key: keyText(kv.key).slice(keyPrefix.length),
    value: new Uint8Array(kv.value),
    createRevision: Number(kv.createRevision),
    modRevision: Number(kv.modRevision),
    leaseId: leaseText(kv.lease),
  };
}

/** INVALID_ARGUMENT for what every etcd server refuses. `keyPrefix` goes before each key. */
export function checkEtcdTransaction(transaction: Transaction, keyPrefix: string): void {
  const { compare, operations } = transaction;
  const items = Math.max(compare.length, operations.length);
  if (items > etcdLimits.maxTransactionItems) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `a transaction of ${items} items is more than etcd takes (${etcdLimits.maxTransactionItems}): split it`,
    );
  }
  let bytes = 0;
  for (const { key } of compare) bytes += keyPrefix.length + key.length;
  for (const operation of operations) {
    bytes += keyPrefix.length + operation.key.length;
    if (operation.type === 'put') bytes += operation.value.length;
  }
  if (bytes > etcdLimits.maxTransactionBytes) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `a transaction of ${bytes} bytes is more than etcd takes (${etcdLimits.maxTransactionBytes}): split it`,
    );
  }
}

interface EtcdOperation {
  requestPut?: { key: Uint8Array; value: Uint8Array; lease: string };
  requestDeleteRange?: { key: Uint8Array };
  requestRange?: { key: Uint8Array; countOnly: boolean };
}

/** The request of a transaction that passed `checkEtcdTransaction`. */
export function txnRequest({ compare, operations }: Transaction, keyPrefix: string): object {
  const bytesOf = (key: string): Uint8Array => keyBytes(keyPrefix + key);
  const success = operations.map((operation): EtcdOperation => {
    const key = bytesOf(operation.key);
    if (operation.type === 'delete') return { requestDeleteRange: { key } };
    return { requestPut: { key, value: operation.value, lease: operation.leaseId || '0' } };
  });
  // etcd answers a transaction without any operation from what the member knows itself, which may
  // be old; a linearizable read in it makes the compares linearizable too
  if (success.length === 0) {
    success.push({ requestRange: { key: keyBytes(keyPrefix), countOnly: true } });
  }
  return {
    compare: compare.map(({ key, modRevision }) => {
      return { result: 'EQUAL', target: 'MOD', key: bytesOf(key), modRevision };
    }),
    success,
    failure: [],
  };
}
