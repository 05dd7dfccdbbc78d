import type { PublicationId } from './ids.ts';

/** Before a publication's id and the name of its volume. No volume has such a name. */
const prefix = 'published:';

/** The NBD export of a host that has the right to use a volume as a device (ADR 19). */
export function publishedExportName(id: PublicationId, volume: string): string {
  return `${prefix}${id}:${volume}`;
}

const endedText = (id: PublicationId): string =>
  `is not published as ${id} any more: another host uses it, or it was unpublished`;

/**
 * Why a connection that names a publication is refused once that has ended. A device knows it by
 * `isPublicationEnded` from a refusal that may pass: the right is never given again.
 */
export function publicationEndedMessage(id: PublicationId, volume: string): string {
  return `volume ${volume} ${endedText(id)}`;
}

/** Whether a refusal is of that kind; what a relay says around it does not matter. */
export function isPublicationEnded(message: string, exportName: string): boolean {
  const published = parsePublishedExport(exportName);
  return published !== null && message.includes(endedText(published.publication));
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
