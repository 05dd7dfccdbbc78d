/**
 * A metadata context that a client asks for to say who it is, and which of its connections this is.
 * A server that knows it ends older connections of the client before it serves a newer one; every
 * other server leaves it out, as it does with all contexts that it does not know.
 */
const prefix = 'x-client:';
const form = /^x-client:([A-Za-z0-9_-]{1,64}):([0-9]{1,15}(?:\.[0-9]{1,15}){0,3})$/;

export interface ClientIdentity {
  /** the same for all connections of one client, and of no other: `[A-Za-z0-9_-]{1,64}` */
  id: string;
  /** Grows with each connection; whoever connects on behalf of a client adds a number of its own. */
  sequence: readonly number[];
}

export function formatClientContext({ id, sequence }: ClientIdentity): string {
  return `${prefix}${id}:${sequence.join('.')}`;
}

/** Null for a context that is none of these. */
export function parseClientContext(context: string): ClientIdentity | null {
  const parts = form.exec(context);
  if (!parts) return null;
  const [, id = '', sequence = ''] = parts;
  return { id, sequence: sequence.split('.').map(Number) };
}

/** Below 0 when `a` is the older connection; a missing number counts as 0. */
export function compareConnections(a: ClientIdentity, b: ClientIdentity): number {
  const length = Math.max(a.sequence.length, b.sequence.length);
  for (let at = 0; at < length; at += 1) {
    const difference = (a.sequence[at] ?? 0) - (b.sequence[at] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
