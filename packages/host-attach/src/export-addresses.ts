import { formatNbdUri, type ExportAddress, type NbdTlsOptions } from 'nbd-client-js';
import type { NbdPlace } from './core/device-addresses.ts';

/** Files by which this host proves who it is to nodes that speak TLS. */
export type HostTls = Pick<NbdTlsOptions, 'certificates' | 'pskFile' | 'username'>;

/** Places as a client of NBD takes them; those of nodes with TLS as URIs that name the files. */
export function exportAddresses(
  places: readonly NbdPlace[],
  exportName: string,
  tls: HostTls | null,
): ExportAddress[] {
  return places.map((place): ExportAddress => {
    if ('path' in place) return { path: place.path };
    const { host, port } = place;
    if (place.tls === '') return { host, port };
    const mode = place.tls === 'required' ? 'require' : 'allow';
    return formatNbdUri({ address: { host, port }, exportName, tls: { mode, ...tls } });
  });
}
