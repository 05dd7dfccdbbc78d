import { StorError } from '@stor/protocol';
import type { KvResult } from './core/kv/kv-state.ts';
import { kvLimits } from './core/kv/kv-limits.ts';

/** The result of a command that was carried out, or the error that it means for the caller. */
export function resultOrThrow(result: KvResult): KvResult {
  switch (result.status) {
    case 'done':
      return result;
    case 'leaseNotFound':
      throw new StorError('NOT_FOUND', 'the transaction names a lease that has ended');
    case 'leaseExists':
      throw new StorError('ALREADY_EXISTS', 'a lease of this id exists');
    case 'full':
      throw new StorError(
        'NO_SPACE',
        `the cluster store is full: it holds at most ${kvLimits.maxStateBytesOfLevel2} bytes ` +
          `(${kvLimits.maxStateBytes} until all members run this version) and ` +
          `${kvLimits.maxLeases} leases; delete something first`,
      );
    case 'forgotten':
      throw new StorError(
        'OUTCOME_UNKNOWN',
        'the request was repeated so late that the cluster store has forgotten whether it was done',
      );
  }
}
