import { allocationContext } from 'nbd-client-js';

/**
 * A context of this server: what has changed since a snapshot of the same volume. Named after the
 * snapshot, `stor:dirty-since-monday`; flag bit 0 is set where a range may differ.
 */
const dirtyPrefix = 'stor:dirty-since-';

export const dirtyState = { dirty: 1 } as const;

export function dirtyContext(snapshot: string): string {
  return `${dirtyPrefix}${snapshot}`;
}

/** The snapshot's name; null for any other context. */
export function snapshotOfContext(context: string): string | null {
  const name = context.startsWith(dirtyPrefix) ? context.slice(dirtyPrefix.length) : '';
  return name === '' ? null : name;
}

/** What the queries of LIST_META_CONTEXT or SET_META_CONTEXT ask for. */
export interface AskedContexts {
  allocation: boolean;
  /** names of snapshots; `all`: whatever there is */
  dirtySince: readonly string[] | 'all';
}

/** Listing without a query, or with a whole namespace, asks for all that there are; setting never. */
export function askedContexts(queries: readonly string[], isSet: boolean): AskedContexts {
  const isListed = (namespace: string): boolean =>
    !isSet && (queries.length === 0 || queries.includes(namespace));
  const named = new Set<string>();
  for (const query of queries) {
    const snapshot = snapshotOfContext(query);
    if (snapshot !== null) named.add(snapshot);
  }
  return {
    allocation: queries.includes(allocationContext) || isListed('base:'),
    dirtySince: isListed('stor:') || isListed(dirtyPrefix) ? 'all' : [...named],
  };
}
