/**
 * Messages of etcd's v3 API as they are decoded: 64-bit numbers are decimal strings, because lease
 * ids and ids of clusters use all 64 bits.
 */
export interface EtcdHeader {
  clusterId: string;
  memberId: string;
  revision: string;
  raftTerm: string;
}

export interface EtcdKeyValue {
  key: Uint8Array;
  createRevision: string;
  modRevision: string;
  value: Uint8Array;
  lease: string;
}

export interface EtcdEvent {
  type: 'PUT' | 'DELETE';
  kv: EtcdKeyValue;
  /** the value before; null when there was none, or when it is not kept any more */
  prevKv: EtcdKeyValue | null;
}

export interface EtcdRangeResponse {
  header: EtcdHeader;
  kvs: EtcdKeyValue[];
  /** more keys than the limit of the request */
  more: boolean;
}

export interface EtcdTxnResponse {
  header: EtcdHeader;
  succeeded: boolean;
}

export interface EtcdWatchResponse {
  header: EtcdHeader;
  created: boolean;
  canceled: boolean;
  /** not 0: changes up to it are no longer kept */
  compactRevision: string;
  cancelReason: string;
  /** the rest of the events follows in the next response */
  fragment: boolean;
  events: EtcdEvent[];
}

export interface EtcdLeaseResponse {
  header: EtcdHeader;
  id: string;
  /** seconds; 0 or less: the lease does not exist */
  ttl: string;
}
