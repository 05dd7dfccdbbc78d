import { StorError } from '@stor/protocol';
import type { JoinToken, Member, MemberSettings, Node, StorApi } from '@stor/protocol';
import { startMs } from './fake-volume.ts';

type MemberMethods =
  | 'listMembers'
  | 'setMemberVote'
  | 'setMembers'
  | 'createToken'
  | 'listTokens'
  | 'removeToken'
  | 'joinCluster'
  | 'backupCluster';

/** The members of a fake cluster, and its tokens. */
export class FakeMembers {
  readonly settings: MemberSettings = { voters: 0, replacementWaitMs: 60_000 };
  readonly tokens: JoinToken[] = [];
  readonly #votes = new Map<string, boolean>();
  readonly #nodes: () => readonly Node[];

  constructor(nodes: () => readonly Node[]) {
    this.#nodes = nodes;
  }

  methods(): { [M in MemberMethods]: (request: Parameters<StorApi[M]>[0]) => unknown } {
    return {
      listMembers: () => ({ members: this.#list(), settings: this.settings }),
      setMemberVote: ({ node, vote }) => {
        const found = this.#list().find(({ name }) => name === node);
        if (!found) throw new StorError('NOT_FOUND', `there is no node ${JSON.stringify(node)}`);
        const voters = this.#list().filter(({ role }) => role !== 'learner').length;
        if (!vote && voters === 1) throw new StorError('UNSAFE', `${node} is the only voter`);
        this.#votes.set(node, vote);
        return { members: this.#list() };
      },
      setMembers: (changes) => Object.assign(this.settings, changes),
      createToken: ({ ttlMs, uses }) => {
        const id = `0000000${this.tokens.length + 1}`;
        const expiresAtMs = startMs + 93_600_000 + (ttlMs || 3_600_000);
        const info = { id, createdAtMs: startMs, expiresAtMs, usesLeft: uses || 1, usedBy: [] };
        this.tokens.push(info);
        return { token: `${id}.${'5'.repeat(48)}`, info };
      },
      listTokens: () => ({ tokens: this.tokens }),
      removeToken: ({ id }) => {
        const at = this.tokens.findIndex((token) => token.id === id.split('.')[0]);
        if (at < 0) throw new StorError('NOT_FOUND', `there is no token ${JSON.stringify(id)}`);
        this.tokens.splice(at, 1);
        return {};
      },
      backupCluster: () => ({ backup: '{}\n', items: 12, revision: 40 }),
      joinCluster: () => {
        throw new StorError('INTERNAL', 'storctl does not join');
      },
    };
  }

  #list(): Member[] {
    return this.#nodes().map(({ metadata, status }) => {
      const vote = this.#votes.get(metadata.name);
      const role = vote === false ? 'learner' : status.raftRole === 'leader' ? 'leader' : 'voter';
      return {
        nodeId: metadata.id,
        name: metadata.name,
        role,
        address: status.addresses.api,
        up: status.state === 'up',
        sinceMs: metadata.createdAtMs,
        matchIndex: status.state === 'up' ? 120 : 100,
        lagEntries: status.state === 'up' ? 0 : 20,
        vote: vote === undefined ? 'auto' : vote ? 'wanted' : 'never',
      };
    });
  }
}
