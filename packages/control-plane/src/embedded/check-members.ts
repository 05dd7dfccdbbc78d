import { StorError } from '@stor/protocol';
import type { EmbeddedStoreOptions } from './open-node.ts';

/** The first voters come from the configuration, or are said; then the configuration may know nobody. */
export function checkMembers({ id, members, voters }: EmbeddedStoreOptions): void {
  const ids = new Set(members.map((member) => member.id));
  const first = voters ?? [...ids];
  const isIn = first.includes(id) || (voters !== undefined && first.length === 0);
  if (isIn && ids.size === members.length) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `the members of the cluster store must differ and include ${id}: ` +
      (voters ?? members.map((member) => member.id)).join(', '),
  );
}
