/**
 * The URI of an export at `host:port`, for any NBD client: `nbds://` where nothing is served without TLS.
 * Where TLS is merely allowed it stays `nbd://`, which every client understands.
 */
export function nbdUriOf(at: {
  address: string;
  /** of the node; absent or empty: no TLS there */
  tls?: string | undefined;
  exportName: string;
}): string {
  return `${at.tls === 'required' ? 'nbds' : 'nbd'}://${at.address}/${at.exportName}`;
}
