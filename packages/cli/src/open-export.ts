import { StorError, hasCode, nbdUriOf, splitSnapshotName } from '@stor/protocol';
import type { Volume } from '@stor/protocol';
import type { CommandContext } from './command-context.ts';
import type { NbdSession } from './nbd-session.ts';

/** What is served over NBD: a volume, or a snapshot. */
export interface NbdExport {
  /** for people: `volume db` */
  what: string;
  /** of the export */
  name: string;
  sizeBytes: number;
  /** the address to be tried first; empty: none is better than another */
  nbdUri: string;
}

/** Of a volume by its name or id, or of a snapshot, `db@monday`. NOT_FOUND; the API's errors. */
export async function findExport(
  { api, call }: CommandContext,
  nameOrId: string,
): Promise<NbdExport> {
  if (splitSnapshotName(nameOrId) === null) {
    return exportOfVolume(await api.getVolume({ name: nameOrId }, call));
  }
  const { metadata, spec, status } = await api.getSnapshot({ name: nameOrId }, call);
  const { name } = metadata;
  if (status.state !== 'ready') {
    throw new StorError('FAILED_PRECONDITION', `snapshot ${name} is not ready: ${status.state}`);
  }
  return { what: `snapshot ${name}`, name, sizeBytes: spec.sizeBytes, nbdUri: '' };
}

export function exportOfVolume({ metadata, spec, status }: Volume): NbdExport {
  const { name } = metadata;
  const { sizeBytes } = spec;
  return { what: `volume ${name}`, name, sizeBytes, nbdUri: status.nbdUri };
}

/**
 * Connects to an export: at the address that the cluster names, and when nothing answers
 * there (a node that died a moment ago) at every other node that is up, since any node serves any
 * volume. When the node is lost later, the session goes on with another. Throws UNAVAILABLE with
 * what each address said; any other error is the cluster's answer about the volume.
 */
export async function openExport(
  { api, io, call, signal, nbdTls }: CommandContext,
  wanted: NbdExport,
): Promise<NbdSession> {
  const { what, name, nbdUri } = wanted;
  const { nodes } = await api.listNodes({}, call);
  const nodeUris = nodes
    .filter((node) => node.status.state === 'up')
    .flatMap(({ status: { addresses } }) =>
      addresses.nbd
        .slice(0, 1)
        .map((address) => nbdUriOf({ address, tls: addresses.nbdTls, exportName: name })),
    );
  const uris = new Set([nbdUri, ...nodeUris]);
  // a cluster that does not know the address of the volume's node names none
  uris.delete('');
  const [first, ...otherUris] = uris;
  if (first === undefined) {
    throw new StorError('UNAVAILABLE', `no node that is up serves ${what} over NBD`);
  }
  try {
    return checkSize(
      await io.openNbd(first, { signal, otherUris, ...(nbdTls ? { tls: nbdTls } : {}) }),
      wanted,
    );
  } catch (error) {
    if (!hasCode(error, 'UNAVAILABLE')) throw error;
    throw new StorError('UNAVAILABLE', `${what} cannot be reached over NBD: ${error.message}`, {
      cause: error,
    });
  }
}

function checkSize(session: NbdSession, { what, sizeBytes }: NbdExport): NbdSession {
  if (session.sizeBytes === sizeBytes) return session;
  void session.close().catch(() => {});
  throw new StorError(
    'PROTOCOL',
    `the export of ${what} has ${session.sizeBytes} bytes instead of ${sizeBytes}`,
  );
}
