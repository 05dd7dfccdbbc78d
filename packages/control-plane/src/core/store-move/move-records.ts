import { StorError } from '@stor/protocol';

/**
 * Not below `rootPrefix`: these keys speak of the store itself. They are never copied to another.
 */
export const storePrefix = '/stor-store/';
/** In a store that is being left: while it exists, nobody else writes. */
export const freezeKey = '/stor-store/freeze';
/** In a store that a cluster was moved to: where it came from. */
export const originKey = '/stor-store/origin';

/** Paths of files on every node: see `EtcdFiles`. */
export interface MoveTls {
  ca?: string | undefined;
  cert?: string | undefined;
  key?: string | undefined;
  passwordFile?: string | undefined;
}

/** The name of the store that the nodes themselves keep. */
export const embeddedStore = 'embedded';

/** Whom the embedded store begins with that a cluster moves to: all nodes, the same on each of them. */
export interface MoveMembers {
  voters: { id: string; address: string }[];
  learners: { id: string; address: string }[];
  /** its revisions go on above those of the store that is left */
  revision: number;
}

export interface FreezeRecord {
  /** of this move; an embedded store that is moved to has it as its `storeId` */
  id: string;
  to: string;
  tls?: MoveTls | undefined;
  /** of an embedded store, once they are chosen: after the freeze, when nobody joins or leaves */
  members?: MoveMembers | undefined;
  /**
   * `completing`: the other store has everything, and may be in use from now on; there is no way
   * back. `moved`: it is in use.
   */
  phase: 'copying' | 'completing' | 'moved';
  startedAtMs: number;
}

export interface OriginRecord {
  /** of the move */
  id: string;
  clusterId: string;
  /** the store that was left, as in `storeIdentity` */
  from: string;
  phase: 'copying' | 'complete';
}

export function encodeMoveRecord(record: FreezeRecord | OriginRecord): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(record));
}

function decode(key: string, value: Uint8Array): Record<string, unknown> {
  try {
    return JSON.parse(new TextDecoder().decode(value)) as Record<string, unknown>;
  } catch (cause) {
    throw new StorError('PROTOCOL', `${key} cannot be read: ${(cause as Error).message}`, {
      cause,
    });
  }
}

export function decodeFreeze(value: Uint8Array): FreezeRecord {
  return decode(freezeKey, value) as unknown as FreezeRecord;
}

export function decodeOrigin(value: Uint8Array): OriginRecord {
  return decode(originKey, value) as unknown as OriginRecord;
}
