import type { BlockDevice, DirtyDone } from '@stor/replicator';
import type { TlsSession } from '@stor/runtime';
import type { ClientIdentity } from 'nbd-client-js';

/** Who asks: the place to decide what a client may see and use. Today every one that is let in may all. */
export interface NbdCaller {
  /** of the server, larger for each connection */
  id: number;
  remote: string;
  /** the session that protects it and who the client has proved to be; null: it is in the clear */
  tls: TlsSession | null;
}

/** What a client's certificate or key calls it, for the log; null: it has proved nothing. */
export function provenName({ tls }: NbdCaller): string | null {
  const peer = tls?.peer;
  if (!peer) return null;
  return peer.kind === 'psk' ? peer.name : peer.subject;
}

/** A connection that asks for an export. */
export interface NbdPeer extends NbdCaller {
  /** null: the client did not say who it is */
  client: ClientIdentity | null;
  /** metadata contexts that were granted for the export, `base:allocation` too */
  contexts: readonly string[];
  /** Aborts when the client has gone: what waits and has not begun is dropped, never done later. */
  left: AbortSignal;
}

/** One connection's hold on a volume. */
export interface NbdExportLease {
  device: BlockDevice;
  /** a snapshot: nothing may be changed through it */
  readOnly: boolean;
  /**
   * What may differ in the export from the snapshot of this name: extents that cover the range in
   * order from its beginning, at most `limit`, fewer when the range is long. Calls back exactly once.
   */
  changedSince(
    snapshot: string,
    offset: number,
    length: number,
    limit: number,
    done: DirtyDone,
  ): void;
  name: string;
  volumeId: string;
  /** from another node's relay, which counts its requests itself */
  isRelay: boolean;
  /** Called exactly once, when the connection is over and nothing of it is in the device any more. */
  release(): void;
  /**
   * The listener is called when the volume may not be used any longer: what has been started is
   * answered, then the connection is closed. At once if that has happened already.
   */
  onRevoked(listener: () => void): void;
}

/** What NBD_OPT_INFO tells of an export. */
export interface ExportFacts {
  name: string;
  sizeBytes: number;
  readOnly: boolean;
}

/** Where the server gets its volumes. Errors are StorError, told to the client by `nbd-errno.ts`. */
export interface NbdExports {
  list(caller: NbdCaller): Promise<string[]>;
  /**
   * Opens for one connection; the lease is released exactly once when the connection is over.
   * NOT_FOUND, ATTACHED_ELSEWHERE, UNAVAILABLE, …
   */
  open(name: string, connection: NbdPeer): Promise<NbdExportLease>;
  /** For NBD_OPT_INFO: facts without attaching. NOT_FOUND, UNAVAILABLE. */
  info(name: string, caller: NbdCaller): Promise<ExportFacts>;
  /** One line about it for people, at most 4096 bytes (INFO_DESCRIPTION). Errors as `info`. */
  describe(name: string): Promise<string>;
  /** Which of the asked snapshots changes of this export can be told since. NOT_FOUND (the export). */
  snapshotsOf(name: string, asked: readonly string[] | 'all', caller: NbdCaller): Promise<string[]>;
}
