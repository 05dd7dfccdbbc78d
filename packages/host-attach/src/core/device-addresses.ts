import type { Node, NodeId } from '@stor/protocol';
import { parseNbdUri } from 'nbd-client-js';

/** One place where a volume is served: a UNIX socket of this host, or `host:port` of a node. */
export type NbdPlace = { path: string } | { host: string; port: number; tls: string };

/** A client takes no more addresses than this; a round of tries is bounded by it. */
const maxPlaces = 32;

/**
 * Where a device of this host finds its volume, in the order in which they are tried: this node's
 * UNIX socket, its port, then the others that are up, by name. Those that are down come last, since
 * they may be back when all others are gone. `nbdUri`, of the volume, says which of a node's lanes has
 * it; through another one each request would cross from lane to lane.
 */
export function nbdPlaces(
  nodes: readonly Node[],
  localId: NodeId,
  { nbdUri }: { nbdUri: string },
): NbdPlace[] {
  const best = addressIn(nbdUri);
  const rank = ({ metadata, status }: Node): number => {
    if (metadata.id === localId) return 0;
    return status.state === 'up' ? 1 : 2;
  };
  const ordered = [...nodes].sort(
    (a, b) => rank(a) - rank(b) || (a.metadata.name < b.metadata.name ? -1 : 1),
  );
  const places = ordered.flatMap((node): NbdPlace[] => {
    const { nbd, nbdUnix, nbdTls = '' } = node.status.addresses;
    const isLocal = node.metadata.id === localId;
    const lane = Math.max(0, nbd.indexOf(best));
    const sockets = isLocal ? nbdUnix.slice(lane, lane + 1).map((path) => ({ path })) : [];
    const ports = nbd.slice(lane, lane + 1).flatMap((address) => {
      const target = parseHostPort(address);
      return target ? [{ ...target, tls: nbdTls }] : [];
    });
    return [...sockets, ...ports];
  });
  return places.slice(0, maxPlaces);
}

/** As nodes write theirs; '' when the volume has none now. */
function addressIn(nbdUri: string): string {
  if (nbdUri === '') return '';
  const { address } = parseNbdUri(nbdUri);
  return 'port' in address ? `${address.host}:${address.port}` : '';
}

/** Null when it is none. */
function parseHostPort(address: string): { host: string; port: number } | null {
  const parts = /^(?:\[([^\]]+)\]|([^:]+)):([0-9]{1,5})$/.exec(address);
  const host = parts?.[1] ?? parts?.[2];
  const port = Number(parts?.[3]);
  if (host === undefined || !(port >= 1 && port <= 65_535)) return null;
  return { host, port };
}
