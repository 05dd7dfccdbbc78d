import { RaftError } from '../errors.ts';
import type { PeerId } from './types.ts';

/** What a member that does not lead answers; `details.leaderId` is empty when none is known. */
export function notLeader(status: { id: PeerId; leaderId: PeerId | null }): RaftError {
  const leaderId = status.leaderId ?? '';
  const whoLeads = leaderId === '' ? 'no leader is known' : `the leader is ${leaderId}`;
  return new RaftError('NOT_LEADER', `${status.id} does not lead: ${whoLeads}`, {
    details: { leaderId },
  });
}
