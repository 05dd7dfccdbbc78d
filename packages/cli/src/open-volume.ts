import { StorError, hasCode } from '@stor/protocol';
import type { Volume } from '@stor/protocol';
import type { CommandContext } from './command-context.ts';
import type { NbdSession } from './nbd-session.ts';

/**
 * Connects to a volume over NBD: at the address that the cluster names, and when nothing answers
 * there (a node that died a moment ago) at every other node that is up, since any node serves any
 * volume. When the node is lost later, the session goes on with another. Throws UNAVAILABLE with
 * what each address said; any other error is the cluster's answer about the volume.
 */
export async function openVolume(
  { api, io, call, signal }: CommandContext,
  volume: Volume,
): Promise<NbdSession> {
  const { name } = volume.metadata;
  const { nbdUri } = volume.status;
  const { nodes } = await api.listNodes({}, call);
  const nodeUris = nodes
    .filter((node) => node.status.state === 'up')
    .flatMap((node) => node.status.addresses.nbd.slice(0, 1))
    .map((address) => `nbd://${address}/${name}`);
  const uris = new Set([nbdUri, ...nodeUris]);
  // a cluster that does not know the address of the volume's node names none
  uris.delete('');
  const [first, ...otherUris] = uris;
  if (first === undefined) {
    throw new StorError('UNAVAILABLE', `no node that is up serves volume ${name} over NBD`);
  }
  try {
    return checkSize(await io.openNbd(first, { signal, otherUris }), volume);
  } catch (error) {
    if (!hasCode(error, 'UNAVAILABLE')) throw error;
    throw new StorError(
      'UNAVAILABLE',
      `volume ${name} cannot be reached over NBD: ${error.message}`,
      { cause: error },
    );
  }
}

function checkSize(session: NbdSession, volume: Volume): NbdSession {
  if (session.sizeBytes === volume.spec.sizeBytes) return session;
  void session.close().catch(() => {});
  throw new StorError(
    'PROTOCOL',
    `the export of volume ${volume.metadata.name} has ${session.sizeBytes} bytes instead of ${volume.spec.sizeBytes}`,
  );
}
