import type { PublicationId } from './ids.ts';

/** Before a publication's id and the name of its volume. No volume has such a name. */
const prefix = 'published:';

/** The NBD export of a host that has the right to use a volume as a device (ADR 19). */
export function publishedExportName(id: PublicationId, volume: string): string {
  return `${prefix}${id}:${volume}`;
}

/** Null for every other export name. */
export function parsePublishedExport(
  exportName: string,
): { publication: PublicationId; volume: string } | null {
  if (!exportName.startsWith(prefix)) return null;
  const rest = exportName.slice(prefix.length);
  const colon = rest.indexOf(':');
  if (colon < 0) return { publication: rest, volume: '' };
  return { publication: rest.slice(0, colon), volume: rest.slice(colon + 1) };
}
