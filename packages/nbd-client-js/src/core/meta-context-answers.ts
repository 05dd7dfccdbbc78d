import type { MetaContext } from './handshake-codec.ts';

/**
 * What a server says of metadata contexts. One that nobody asked for, or an id of two, would make
 * block status tell of something else.
 */
export class MetaContextAnswers {
  /** context name -> id in block status chunks; of no meaning in a list */
  readonly ids = new Map<string, number>();
  readonly #queries: readonly string[];
  readonly #usedIds = new Set<number>();

  constructor(queries: readonly string[]) {
    this.#queries = queries;
  }

  /** Takes one more; says what is wrong with it, or null. */
  take({ id, name }: MetaContext, option: 'set' | 'list'): string | null {
    const quoted = JSON.stringify(name);
    const isListOfAll = option === 'list' && this.#queries.length === 0;
    if (!isListOfAll && !this.#queries.some((query) => maySelect(query, name))) {
      return `metadata context ${quoted} was not asked for`;
    }
    if (option === 'set') {
      const known = this.ids.get(name);
      if (known === undefined && this.#usedIds.has(id)) return `id ${id} of two metadata contexts`;
      // some servers say one again for each query that selects it
      if (known !== undefined && known !== id) return `metadata context ${quoted} with two ids`;
    }
    this.ids.set(name, id);
    this.#usedIds.add(id);
    return null;
  }

  /** The server takes back what it said. */
  clear(): void {
    this.ids.clear();
    this.#usedIds.clear();
  }
}

/**
 * Whether a context may be the answer to a query. What follows the namespace means what its owner
 * says; in the protocol's own there are only names, and the whole of it in a list.
 */
function maySelect(query: string, name: string): boolean {
  const namespace = query.slice(0, query.indexOf(':') + 1);
  if (name === query || namespace === '') return name === query;
  return name.startsWith(namespace) && (namespace !== 'base:' || query === namespace);
}
