import { StorError } from '@stor/protocol';
import type { ErrorCode } from '@stor/protocol';

/** What an error that an etcd server answered means for the next step. */
export type EtcdVerdict =
  /** certainly nothing was done, and asking again makes no difference */
  | { fate: 'final'; error: StorError }
  /** certainly nothing was done; another try, perhaps elsewhere, may do better */
  | { fate: 'again' }
  /** it may have been done, or may still be done */
  | { fate: 'unknown' };

const prefix = 'etcdserver: ';

/** By the text that follows `etcdserver: `; the texts are part of etcd's API (`rpctypes`). */
const finals: readonly [start: string, code: ErrorCode, advice?: string][] = [
  ['requested lease not found', 'NOT_FOUND'],
  ['lease already exists', 'ALREADY_EXISTS'],
  ['too large lease TTL', 'INVALID_ARGUMENT'],
  ['mvcc: required revision has been compacted', 'FAILED_PRECONDITION'],
  [
    'mvcc: database space exceeded',
    'NO_SPACE',
    'compact and defragment etcd, or raise its --quota-backend-bytes, then disarm the alarm (etcdctl alarm disarm)',
  ],
  [
    'request is too large',
    'INVALID_ARGUMENT',
    'Stor stays below the default of etcd (--max-request-bytes 1572864): raise it to that',
  ],
  [
    'too many operations in txn request',
    'INVALID_ARGUMENT',
    'Stor stays below the default of etcd (--max-txn-ops 128): raise it to that',
  ],
  ['duplicate key given in txn request', 'INVALID_ARGUMENT'],
  [
    'permission denied',
    'PERMISSION_DENIED',
    'the etcd user must read and write all keys below the prefix (etcdctl role grant-permission ROLE --prefix=true readwrite PREFIX/)',
  ],
  [
    'user name is empty',
    'UNAUTHENTICATED',
    'etcd demands a user: name it in the address (etcd://USER@HOST:PORT) and give --etcd-password-file, or a client certificate whose common name is one',
  ],
  ['invalid auth token', 'UNAUTHENTICATED'],
  [
    'authentication failed',
    'UNAUTHENTICATED',
    'correct the user in the address of the store, or the password in the file',
  ],
  ['corrupt cluster', 'CHECKSUM_MISMATCH', 'etcd has found that its members differ: restore it'],
];

/** Refused before anything was proposed. */
const again = [
  'no leader',
  'not capable',
  'too many requests',
  'unhealthy cluster',
  'rpc not supported for learner',
  'mvcc: required revision is a future revision',
];

/** `message`: the details of a gRPC status. */
export function judgeEtcdError(message: string): EtcdVerdict {
  // of a password that cannot be read: nothing was asked
  if (message.startsWith('the password file')) {
    return { fate: 'final', error: new StorError('UNAUTHENTICATED', message) };
  }
  // as the reason of a watch that is refused comes from some versions
  message = message.replace(/^rpc error: code = \w+ desc = /, '');
  if (!message.startsWith(prefix)) return { fate: 'unknown' };
  const text = message.slice(prefix.length);
  const final = finals.find(([start]) => text.startsWith(start));
  if (final) {
    const [, code, advice] = final;
    return {
      fate: 'final',
      error: new StorError(code, `etcd: ${text}${advice === undefined ? '' : `: ${advice}`}`),
    };
  }
  return again.some((start) => text.startsWith(start)) ? { fate: 'again' } : { fate: 'unknown' };
}
