import { idPattern } from '@stor/protocol';
import { csiError } from './csi-error.ts';
import { invalid } from './check-fields.ts';

const tokenPrefix = 'after:';

/**
 * A part of a list in the order of ids. The token names the last id of the page before, so what is made or
 * deleted meanwhile neither repeats nor hides anything else. ABORTED: the token is none of ours.
 */
export function pageOf<T>(
  items: readonly T[],
  idOf: (item: T) => string,
  { maxEntries, startingToken }: { maxEntries: number; startingToken: string },
): { page: T[]; nextToken: string } {
  if (maxEntries < 0) throw invalid('max_entries is negative');
  const after = afterOf(startingToken);
  const rest = items
    .filter((item) => idOf(item) > after)
    .sort((a, b) => (idOf(a) < idOf(b) ? -1 : 1));
  const page = maxEntries === 0 ? rest : rest.slice(0, maxEntries);
  const last = page.at(-1);
  const isMore = page.length < rest.length && last !== undefined;
  return { page, nextToken: isMore ? `${tokenPrefix}${idOf(last)}` : '' };
}

function afterOf(token: string): string {
  if (token === '') return '';
  const id = token.slice(tokenPrefix.length);
  if (token.startsWith(tokenPrefix) && idPattern.test(id)) return id;
  throw csiError('ABORTED', 'starting_token is none of this driver: begin again without one');
}
