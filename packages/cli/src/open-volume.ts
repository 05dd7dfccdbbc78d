import { StorError, hasCode } from '@stor/protocol';
import type { Volume } from '@stor/protocol';
import type { CommandContext } from './command-context.ts';
import type { NbdSession } from './nbd-session.ts';

/**
 * Connects to a volume over NBD: at the address that the cluster names, and when nothing answers
 * there (a node that died a moment ago) at every other node that is up, since any node serves any
 * volume. Throws UNAVAILABLE with what each address said; any other error ends the search, because
 * it is the cluster's answer about the volume.
 */
export async function openVolume(
  { api, io, call, signal }: CommandContext,
  volume: Volume,
): Promise<NbdSession> {
  const failures: string[] = [];
  const tried = new Set<string>();
  const attempt = async (uri: string): Promise<NbdSession | null> => {
    if (tried.has(uri)) return null;
    tried.add(uri);
    try {
      return checkSize(await io.openNbd(uri, { signal }), volume);
    } catch (error) {
      if (!hasCode(error, 'UNAVAILABLE')) throw error;
      failures.push(`${uri}: ${error.message}`);
      return null;
    }
  };
  const first = await attempt(volume.status.nbdUri);
  if (first !== null) return first;
  const { nodes } = await api.listNodes({}, call);
  for (const node of nodes) {
    const address = node.status.addresses.nbd[0];
    if (node.status.state !== 'up' || address === undefined) continue;
    const session = await attempt(`nbd://${address}/${volume.metadata.name}`);
    if (session !== null) return session;
  }
  throw new StorError(
    'UNAVAILABLE',
    `volume ${volume.metadata.name} cannot be reached over NBD: ${failures.join('; ')}`,
  );
}

function checkSize(session: NbdSession, volume: Volume): NbdSession {
  if (session.sizeBytes === volume.spec.sizeBytes) return session;
  void session.close().catch(() => {});
  throw new StorError(
    'PROTOCOL',
    `the export of volume ${volume.metadata.name} has ${session.sizeBytes} bytes instead of ${volume.spec.sizeBytes}`,
  );
}
