import type { StorApi } from './api.ts';
import type { Member } from './resources.ts';
import type { ApiCall } from './snapshot-calls.ts';

type MemberMethod =
  | 'listMembers'
  | 'setMemberVote'
  | 'setMembers'
  | 'createToken'
  | 'listTokens'
  | 'removeToken'
  | 'joinCluster'
  | 'backupCluster';

/** The methods about members of the cluster store and who may join. */
export function memberCalls(call: ApiCall): Pick<StorApi, MemberMethod> {
  const listMembers = call('listMembers');
  const setMemberVote = call('setMemberVote');
  return {
    listMembers: async (request, options) => decoded(await listMembers(request, options)),
    setMemberVote: async (request, options) => decoded(await setMemberVote(request, options)),
    setMembers: call('setMembers'),
    createToken: call('createToken'),
    listTokens: call('listTokens'),
    removeToken: call('removeToken'),
    joinCluster: call('joinCluster'),
    backupCluster: call('backupCluster'),
  };
}

/** On the wire a number that is not known is absent; here it is null. */
function decoded<T extends { members: Member[] }>(wire: T): T {
  const members = wire.members.map((member) => ({
    ...member,
    matchIndex: member.matchIndex ?? null,
    lagEntries: member.lagEntries ?? null,
  }));
  return { ...wire, members };
}
