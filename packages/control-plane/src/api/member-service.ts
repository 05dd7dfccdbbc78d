import { hasCode, StorError } from '@stor/protocol';
import type { JoinAnswer, Member, MemberSettings, StorApi } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import type {
  ClusterStore,
  Compare,
  Operation,
  StoreMember,
  StoreMembers,
} from '../cluster-store.ts';
import { encodeBackup } from '../embedded/backup-file.ts';
import { isBackedUp } from '../core/members/raise-epochs.ts';
import { checkJoin, decideJoin } from '../core/members/join-rules.ts';
import { describeMembers } from '../core/members/describe-members.ts';
import { bearsLoss, maxMembers } from '../core/members/plan-members.ts';
import { nodeName } from '../resources/cluster-state.ts';
import type { ClusterState } from '../resources/cluster-state.ts';
import { memberKey, memberSettingsKey, nodeKey, nodeNameKey } from '../resources/keys.ts';
import type { MemberRecord } from '../resources/member-record.ts';
import {
  defaultVoterWaitMs,
  minVoterWaitMs,
  voterCounts,
  type MemberSettings as SettingsRecord,
} from '../resources/member-settings.ts';
import { pause } from '../resources/pause.ts';
import { readMembers } from '../resources/read-members.ts';
import { encodeRecord } from '../resources/records.ts';
import { findNode } from './find-node.ts';
import { readSoon } from './read-soon.ts';
import { TokenService } from './token-service.ts';

type Request<M extends keyof StorApi> = Parameters<StorApi[M]>[0];

const maxConflicts = 20;
/** A change of votes that takes longer is told as not done yet (ms). */
const voteWaitMs = 20_000;
const votePollMs = 100;
/** Without a leader what this member knows is shown after (ms). */
const leaderReadMs = 1_500;
const maxVoterWaitMs = 7 * 24 * 3_600_000;

/** The services about members and tokens. */
export function memberServices(options: {
  store: ClusterStore;
  clock: Clock;
  random: Random;
  logger: Logger;
  clusterId: string;
  clusterName: string;
}): { members: MemberService; tokens: TokenService } {
  const tokens = new TokenService(options);
  return { members: new MemberService({ ...options, tokens }), tokens };
}

/** Who takes part in the embedded cluster store, and who may join it. */
export class MemberService {
  readonly #store: ClusterStore;
  readonly #tokens: TokenService;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #cluster: { id: string; name: string };

  constructor(options: {
    store: ClusterStore;
    tokens: TokenService;
    clock: Clock;
    logger: Logger;
    clusterId: string;
    clusterName: string;
  }) {
    this.#store = options.store;
    this.#tokens = options.tokens;
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#cluster = { id: options.clusterId, name: options.clusterName };
  }

  /** See StorApi.listMembers. */
  async list(): Promise<{ members: Member[]; settings: MemberSettings }> {
    const members = this.#members();
    const state = await readMembers(this.#store, { local: true });
    const settings = settingsOf(state);
    const seen = await members.read({ timeoutMs: leaderReadMs }).catch((error: unknown) => {
      if (!hasCode(error, 'UNAVAILABLE', 'TIMEOUT', 'OUTCOME_UNKNOWN')) throw error;
      return null;
    });
    return { members: describeMembers(state, seen ?? this.#asKnownHere(members)), settings };
  }

  /** See StorApi.setMemberVote: it is recorded, and the leader carries it out. */
  async setVote(
    { node, vote }: Request<'setMemberVote'>,
    signal: AbortSignal,
  ): Promise<{ members: Member[]; settings: MemberSettings }> {
    const members = this.#members();
    const id = await this.#recordVote(members, node, vote);
    const endMs = this.#clock.monotonicMs() + voteWaitMs;
    while (members.local().voters.includes(id) !== vote) {
      if (signal.aborted || this.#clock.monotonicMs() > endMs) {
        throw new StorError(
          'UNAVAILABLE',
          `the vote of ${node} is recorded and not changed yet${vote ? ', as it lacks too much of the log' : ''}; the leader goes on with it: see "storctl cluster members"`,
        );
      }
      await pause(this.#clock, votePollMs, signal);
    }
    return this.list();
  }

  /** See StorApi.setMembers. */
  async set(request: Request<'setMembers'>): Promise<MemberSettings> {
    // on the wire what is absent is null
    const voters = request.voters ?? null;
    const waitMs = request.replacementWaitMs ?? null;
    if (voters !== null && voters !== 0 && !voterCounts.includes(voters)) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `${voters} voters are not possible: ${voterCounts.join(', ')}, or 0 for as many as there are, at least 3`,
      );
    }
    if (waitMs !== null && (waitMs < minVoterWaitMs || waitMs > maxVoterWaitMs)) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `a voter cannot be replaced after ${waitMs} ms: 5s to 7d`,
      );
    }
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await readMembers(this.#store);
      const before: SettingsRecord = state.memberSettings?.value ?? {};
      const { voters: _voters, ...others } = before;
      const base = voters === null ? before : others;
      const record: SettingsRecord = {
        ...base,
        ...(voters === null || voters === 0 ? {} : { voters }),
        ...(waitMs === null ? {} : { replacementWaitMs: waitMs }),
      };
      const key = memberSettingsKey;
      const { succeeded } = await this.#store.transact({
        compare: [{ key, modRevision: state.memberSettings?.modRevision ?? 0 }],
        operations: [{ type: 'put', key, value: encodeRecord(record) }],
      });
      if (!succeeded) continue;
      this.#logger.info({ ...record }, 'settings of the members changed');
      return settingsOf({ ...state, memberSettings: { value: record, modRevision: 1 } });
    }
    throw new StorError('CONFLICT', 'the settings change too often: try again');
  }

  /**
   * See StorApi.joinCluster: one transaction, after which the leader adds the node as a learner. With
   * etcd the record only keeps the node's name and its place in an embedded store later.
   */
  async join(request: Request<'joinCluster'>): Promise<JoinAnswer> {
    const { members, address: storeAddress = '' } = this.#store;
    if (storeAddress === '') this.#members();
    checkJoin(request);
    if (request.clusterId !== '' && request.clusterId !== this.#cluster.id) {
      throw new StorError(
        'FOREIGN_DATA',
        `the data folder belongs to cluster ${request.clusterId}, this is cluster ${this.#cluster.id} (${this.#cluster.name}): give another folder`,
      );
    }
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const used = await this.#tokens.use(request.token, request.nodeId);
      const state = await readMembers(this.#store);
      const name = await this.#store.get(nodeNameKey(request.name));
      const most = members ? maxMembers : Infinity;
      const { record, replaced } = decideJoin(state, request, this.#clock.wallMs(), most);
      const key = memberKey(record.id);
      const nameKey = nodeNameKey(record.name);
      const value = new TextEncoder().encode(record.id);
      const outgoing = replaced === null ? null : replacement(state, replaced, this.#clock);
      const { succeeded } = await this.#store.transact({
        compare: [
          ...used.compare,
          { key, modRevision: state.members.get(record.id)?.modRevision ?? 0 },
          { key: nameKey, modRevision: name?.modRevision ?? 0 },
          ...(outgoing?.compare ?? []),
        ],
        operations: [
          ...used.operations,
          { type: 'put', key, value: encodeRecord(record) },
          { type: 'put', key: nameKey, value },
          ...(outgoing?.operations ?? []),
        ],
      });
      if (!succeeded) continue;
      const { id, address } = record;
      this.#logger.info({ node: record.name, id, address, replaced }, 'a node joins the cluster');
      const { id: clusterId, name: clusterName } = this.#cluster;
      const known = (members?.addresses() ?? []).filter((member) => member.id !== id);
      const storeId = members?.storeId ?? '';
      return { clusterId, clusterName, storeId, members: known, store: storeAddress };
    }
    throw new StorError('CONFLICT', 'too many nodes join at once: try again');
  }

  /** See StorApi.backupCluster. */
  async backup(): Promise<{ backup: string; items: number; revision: number }> {
    const { revision, items } = await readSoon((options) => this.#store.list('', options));
    const kept = items.filter(isBackedUp);
    const { id: clusterId, name: clusterName } = this.#cluster;
    const head = { clusterId, clusterName, revision, takenAtMs: this.#clock.wallMs() };
    return { backup: encodeBackup(head, kept), items: kept.length, revision };
  }

  async #recordVote(members: StoreMembers, node: string, vote: boolean): Promise<string> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await readSoon((options) => readMembers(this.#store, options));
      const { id, name, addresses, createdAtMs } = findNode(state, node).value;
      const seen = await members.read();
      const voters = seen.filter(({ role }) => role !== 'learner').map((member) => member.id);
      if (!seen.some((member) => member.id === id)) {
        throw new StorError('NOT_FOUND', `node ${name} is no member of the cluster store`);
      }
      if (!vote) checkDemotion(state, voters, id);
      const known = state.members.get(id);
      const record: MemberRecord = {
        ...(known?.value ?? { id, name, address: addresses.api, addedAtMs: createdAtMs }),
        voter: vote ? 'wanted' : 'never',
      };
      const key = memberKey(id);
      const { succeeded } = await this.#store.transact({
        compare: [{ key, modRevision: known?.modRevision ?? 0 }],
        operations: [{ type: 'put', key, value: encodeRecord(record) }],
      });
      if (!succeeded) continue;
      this.#logger.info({ node: name, vote }, 'a vote in the cluster store was ordered');
      return id;
    }
    throw new StorError('CONFLICT', `member ${node} changes too often: try again`);
  }

  #members(): StoreMembers {
    const { members } = this.#store;
    if (members) return members;
    throw new StorError(
      'FAILED_PRECONDITION',
      'the cluster store is not the embedded one: it has no members here',
    );
  }

  #asKnownHere(members: StoreMembers): (Omit<StoreMember, 'matchIndex' | 'lagEntries'> & {
    matchIndex: null;
    lagEntries: null;
  })[] {
    const { voters, learners } = members.local();
    const addresses = new Map(members.addresses().map(({ id, address }) => [id, address]));
    const { leaderId } = this.#store.status();
    return [...voters, ...learners.filter((id) => !voters.includes(id))].map((id) => ({
      id,
      role: id === leaderId ? 'leader' : voters.includes(id) ? 'voter' : 'learner',
      address: addresses.get(id) ?? '',
      matchIndex: null,
      lagEntries: null,
      isCaughtUp: false,
    }));
  }
}

/** UNSAFE with who would be missing. */
function checkDemotion(state: ClusterState, voters: readonly string[], id: string): void {
  if (!voters.includes(id) || bearsLoss(state, voters, id)) return;
  const name = nodeName(state, id);
  const left = voters.filter((each) => each !== id);
  if (left.length === 0) {
    throw new StorError(
      'UNSAFE',
      `${name} is the only voter: without it the cluster store has no majority; promote another node first`,
    );
  }
  const down = left.filter((each) => !state.leases.has(each)).map((each) => nodeName(state, each));
  throw new StorError(
    'UNSAFE',
    `without ${name} the voters are ${left.map((each) => nodeName(state, each)).join(', ')}, of which ${down.join(', ')} ${down.length === 1 ? 'is' : 'are'} down: the cluster store would have no majority; start ${down.length === 1 ? 'it' : 'them'} or promote another node first`,
  );
}

/** The node that is replaced leaves the store, and its name is free. */
function replacement(
  state: ClusterState,
  id: string,
  clock: Clock,
): { compare: Compare[]; operations: Operation[] } {
  const node = state.nodes.get(id);
  const member = state.members.get(id);
  const removed: MemberRecord = {
    ...(member?.value ?? {
      id,
      name: node?.value.name ?? id,
      address: node?.value.addresses.api ?? '',
      addedAtMs: node?.value.createdAtMs ?? 0,
    }),
    removedAtMs: clock.wallMs(),
  };
  const compare: Compare[] = [{ key: memberKey(id), modRevision: member?.modRevision ?? 0 }];
  const operations: Operation[] = [
    { type: 'put', key: memberKey(id), value: encodeRecord(removed) },
  ];
  if (node) {
    // what it had is looked after as of any node that is down, under a name that nobody else has
    compare.push({ key: nodeKey(id), modRevision: node.modRevision });
    const value = encodeRecord({ ...node.value, name: id });
    operations.push({ type: 'put', key: nodeKey(id), value });
  }
  return { compare, operations };
}

function settingsOf(state: ClusterState): MemberSettings {
  const { voters, replacementWaitMs } = state.memberSettings?.value ?? {};
  return { voters: voters ?? 0, replacementWaitMs: replacementWaitMs ?? defaultVoterWaitMs };
}
