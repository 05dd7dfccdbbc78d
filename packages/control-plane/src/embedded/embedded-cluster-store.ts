import path from 'node:path';
import { StorError } from '@stor/protocol';
import { systemFiles } from '@stor/runtime';
import { LevelRaftStorage, decodeMessages, type RaftNode } from 'raft-ts';
import { ClusterStoreMachine } from '../cluster-store-machine.ts';
import { resultOrThrow } from '../cluster-store-result.ts';
import type {
  ClusterStore,
  KeyValue,
  StoreCallOptions,
  StoreMembers,
  StoreStatus,
  Transaction,
  TransactionResult,
  WatchEvent,
} from '../cluster-store.ts';
import { copyOfItem, watchChanges } from '../cluster-store-watch.ts';
import { grpcTransport } from '../rpc/grpc-transport.ts';
import { decodeEnvelope, encodeEnvelope } from '../core/kv/envelope.ts';
import { countField, textField } from '../core/kv/field.ts';
import {
  checkId,
  checkKey,
  checkLeaseMs,
  checkTransaction,
  decodeCommand,
  encodeCommand,
  type KvCommandBody,
} from '../core/kv/kv-command.ts';
import { decodeResult, encodeResult } from '../core/kv/kv-result.ts';
import type { KvResult } from '../core/kv/kv-state.ts';
import { CallDeadline } from './call-deadline.ts';
import { checkMembers } from './check-members.ts';
import { LatencyHistogram } from './latency-histogram.ts';
import { LeaderCalls } from './leader-calls.ts';
import { LeaseKeeper } from './lease-keeper.ts';
import { LevelKeeper } from './level-keeper.ts';
import { logOpener } from './log-opener.ts';
import { MemberBook } from './member-book.ts';
import { OutcastProbe } from './outcast-probe.ts';
import { openNode, type EmbeddedStoreOptions, type Failure } from './open-node.ts';
import { PeerConnections } from './peer-connections.ts';
import { fromRaft, fromRaftStorage } from './raft-errors.ts';
import { RaftService, type RaftCallers } from './raft-service.ts';
import { RecordedMembers } from './recorded-members.ts';
import { claimFolder } from './store-identity.ts';
import { EmbeddedMembers } from './embedded-members.ts';
import { longLivedController } from '../resources/long-lived.ts';
import { decodeForgotten, goneForEver } from '../resources/forgotten-record.ts';
import { forgottenKey } from '../resources/keys.ts';
import type { MemberRecord } from '../resources/member-record.ts';

/** Calls of this member that wait, without a quorum up to their time limit. */
const maxCallsUnderWay = 10_000;

/**
 * The cluster store replicated by Raft inside the members themselves. A change goes to the leader
 * under a request id, through the log, and is applied by every member; a read asks the leader for
 * an index and is answered from this member's own state once that is applied.
 */
export class EmbeddedClusterStore implements ClusterStore {
  readonly #options: EmbeddedStoreOptions;
  readonly #machine: ClusterStoreMachine;
  readonly #node: RaftNode;
  readonly #storage: LevelRaftStorage;
  readonly #service: RaftService;
  readonly #connections: PeerConnections;
  readonly #recorded: RecordedMembers;
  readonly #members: EmbeddedMembers;
  readonly #calls: LeaderCalls;
  readonly #leases: LeaseKeeper;
  readonly #level: LevelKeeper;
  readonly #latency = new LatencyHistogram();
  readonly #closed = longLivedController();
  readonly #failure: Failure;
  readonly #listeners = new Set<(isLeader: boolean) => void>();
  /** calls under way, and commands that other members sent, by request id */
  readonly #underWay = new Set<Promise<unknown>>();
  readonly #executing = new Map<string, Promise<KvResult>>();
  #wasLeader = false;
  #closing: Promise<void> | null = null;

  private constructor(
    options: EmbeddedStoreOptions,
    parts: {
      machine: ClusterStoreMachine;
      node: RaftNode;
      storage: LevelRaftStorage;
      service: RaftService;
      book: MemberBook;
      connections: PeerConnections;
      storeId: string;
      failure: Failure;
    },
  ) {
    this.#options = options;
    this.#machine = parts.machine;
    this.#node = parts.node;
    this.#storage = parts.storage;
    this.#service = parts.service;
    this.#connections = parts.connections;
    this.#failure = parts.failure;
    const { machine, node, book, connections, storeId } = parts;
    this.#recorded = new RecordedMembers({
      machine,
      logger: options.logger,
      changed: (records) => {
        learnAddresses(records, book);
      },
    });
    this.#calls = this.#leaderCalls(connections, book);
    this.#members = new EmbeddedMembers({
      node,
      book,
      storeId,
      run: (call, callOptions) =>
        this.#call(callOptions, async (deadline) => (await this.#calls.run(call, deadline)).value),
    });
    this.#leases = new LeaseKeeper({
      node: this.#node,
      machine: this.#machine,
      clock: options.clock,
      logger: options.logger,
      proposeExpiry: (leaseId, term) =>
        this.#executeHere({ type: 'revokeLease', leaseId, onlyInTerm: term }),
    });
    this.#level = new LevelKeeper({
      id: options.id,
      machine: this.#machine,
      isLeader: () => this.status().isLeader,
      members: () => this.#node.members(),
      propose: (level) => this.#executeHere({ type: 'raiseLevel', level }),
      logger: options.logger,
    });
    this.#node.onRoleChange(() => {
      this.#noticeLeadership();
    });
    this.#noticeLeadership();
    this.#failure.listener = () => {
      this.#service.stop();
      void this.#leases.close();
      this.#noticeLeadership();
    };
    this.#service.start(
      {
        receive: (from, batch) => {
          this.#receive(from, batch);
        },
        execute: async (request) => encodeResult(await this.#execute(request)),
        readIndex: async () => encodeEnvelope({ index: await this.#readIndexHere() }),
        renewLease: async (request) => {
          const { header } = decodeEnvelope(request);
          await this.#leases.renew(textField(header['leaseId'], 'leaseId'));
          return encodeEnvelope({});
        },
        members: async () => this.#members.answer(),
      },
      this.#callers(book),
    );
  }

  /**
   * Opens this member; it serves once a quorum of members is open. Errors: INVALID_ARGUMENT;
   * FOREIGN_DATA (the folder is of another member, cluster or a newer format); IN_USE;
   * CHECKSUM_MISMATCH; DISK_FAILED.
   */
  static async open(options: EmbeddedStoreOptions): Promise<EmbeddedClusterStore> {
    checkMembers(options);
    const { clusterId, id, dataPath, clock, random, logger, files = systemFiles } = options;
    const storeId = claimFolder(files, dataPath, { clusterId, id, storeId: options.storeId });
    const logPath = path.join(dataPath, 'log');
    const storage = await LevelRaftStorage.open(logPath, logOpener(options)).catch(
      (error: unknown) => {
        throw fromRaftStorage(error, logPath);
      },
    );
    const self = { clusterId, storeId, id, address: options.address ?? '' };
    const service = new RaftService(self);
    const file = path.join(dataPath, 'members.json');
    const here = options.address === undefined ? [] : [{ id, address: options.address }];
    const fixed = [...here, ...options.members];
    const book = new MemberBook({ files, file, logger, fixed });
    book.learn(options.known ?? []);
    const transport = options.rpc ?? grpcTransport();
    const connections = new PeerConnections({ self, book, transport, clock, random, logger });
    try {
      service.addTo(options.server);
      const machine = new ClusterStoreMachine();
      const failure: Failure = { error: null, listener: () => {} };
      const node = await openNode(options, { machine, storage, connections, failure });
      // a process that was killed closes its connections: nobody waits an election timeout for it
      connections.onBroken = (id) => {
        node.suspectLeader(id);
      };
      const parts = { machine, node, storage, service, book, connections, storeId, failure };
      return new EmbeddedClusterStore(options, parts);
    } catch (error) {
      connections.closeLinks();
      await storage.close();
      throw fromRaftStorage(error, logPath);
    }
  }

  get(key: string, options: StoreCallOptions & { local?: boolean } = {}): Promise<KeyValue | null> {
    return this.#call(options, async (deadline) => {
      checkKey(key);
      if (!options.local) await this.#readBarrier(deadline);
      const item = this.#machine.state.get(key);
      return item ? copyOfItem(item) : null;
    });
  }

  list(
    prefix: string,
    options: StoreCallOptions & { local?: boolean } = {},
  ): Promise<{ revision: number; items: KeyValue[] }> {
    return this.#call(options, async (deadline) => {
      if (!options.local) await this.#readBarrier(deadline);
      const { state } = this.#machine;
      return { revision: state.revision, items: state.list(prefix).map(copyOfItem) };
    });
  }

  transact(transaction: Transaction, options: StoreCallOptions = {}): Promise<TransactionResult> {
    return this.#call(options, async (deadline) => {
      checkTransaction(transaction);
      const startMs = this.#options.clock.monotonicMs();
      const { succeeded, revision } = await this.#submit(
        { type: 'transact', transaction },
        deadline,
      );
      this.#latency.observe((this.#options.clock.monotonicMs() - startMs) / 1000);
      return { succeeded, revision };
    });
  }

  watch(prefix: string, afterRevision: number, signal: AbortSignal): AsyncIterable<WatchEvent[]> {
    return watchChanges(this.#machine, prefix, afterRevision, signal, this.#closed.signal);
  }

  grantLease(ttlMs: number, options: StoreCallOptions = {}): Promise<{ leaseId: string }> {
    return this.#call(options, async (deadline) => {
      checkLeaseMs(ttlMs);
      const leaseId = this.#newId(8);
      await this.#submit({ type: 'grantLease', leaseId, ttlMs }, deadline);
      return { leaseId };
    });
  }

  renewLease(leaseId: string, options: StoreCallOptions = {}): Promise<void> {
    return this.#call(options, async (deadline) => {
      checkId(leaseId, 'a lease id');
      const call = {
        writes: false,
        method: 'RenewLease',
        request: encodeEnvelope({ leaseId }),
        local: () => this.#leases.renew(leaseId),
        decode: () => undefined,
      };
      await this.#calls.run(call, deadline);
    });
  }

  revokeLease(leaseId: string, options: StoreCallOptions = {}): Promise<void> {
    return this.#call(options, async (deadline) => {
      checkId(leaseId, 'a lease id');
      await this.#submit({ type: 'revokeLease', leaseId, onlyInTerm: null }, deadline);
    });
  }

  status(): StoreStatus {
    const { leaderId, role, term, commitIndex, appliedIndex } = this.#node.status();
    const isLeader = role === 'leader' && this.#failure.error === null;
    const { revision } = this.#machine.state;
    return { leaderId, isLeader, term, commitIndex, appliedIndex, revision };
  }

  /** Time of committed transactions of this member, from call to result, for the metrics page. */
  commitLatency(): { bounds: readonly number[]; counts: readonly number[]; sum: number } {
    return this.#latency.read();
  }

  get members(): StoreMembers {
    return this.#members;
  }

  onLeadership(listener: (isLeader: boolean) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  /** Stops taking part; calls under way end with an error first. Works twice. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.#closed.abort();
    this.#service.stop();
    await this.#node.close();
    this.#becomeFollower();
    await this.#leases.close();
    this.#recorded.close();
    this.#connections.closeLinks();
    this.#connections.closeChannels();
    await Promise.allSettled(this.#underWay);
    await this.#storage.close();
  }

  /** Runs one call of a user within its limits. */
  async #call<T>(
    options: StoreCallOptions,
    run: (deadline: CallDeadline) => Promise<T>,
  ): Promise<T> {
    const deadline = new CallDeadline(this.#options.clock, options, this.#closed.signal);
    if (deadline.end !== null || this.#failure.error) {
      deadline.dispose();
      throw this.#failure.error ? stopped(this.#failure.error) : deadline.error(false, null);
    }
    if (this.#underWay.size >= maxCallsUnderWay) {
      deadline.dispose();
      throw new StorError(
        'UNAVAILABLE',
        `${maxCallsUnderWay} calls of the cluster store wait already`,
      );
    }
    const promise = run(deadline);
    this.#underWay.add(promise);
    try {
      return await promise;
    } finally {
      this.#underWay.delete(promise);
      deadline.dispose();
    }
  }

  /** Has a command done once, by whoever leads. */
  async #submit(body: KvCommandBody, deadline: CallDeadline): Promise<KvResult> {
    for (;;) {
      const request = encodeCommand({ ...body, request: this.#newRequest() });
      const { value, repeated } = await this.#calls.run(
        {
          writes: true,
          method: 'Execute',
          request,
          local: () => this.#execute(request),
          decode: decodeResult,
        },
        deadline,
      );
      if (value.status !== 'forgotten' || repeated) return resultOrThrow(value);
      // This member's state was so old that its first try looked like a late repetition. Nothing
      // was done: catch up and ask anew.
      await this.#readBarrier(deadline);
    }
  }

  /** Returns when this member has applied everything that was committed before the call. */
  async #readBarrier(deadline: CallDeadline): Promise<void> {
    const call = {
      writes: false,
      method: 'ReadIndex',
      request: encodeEnvelope({}),
      local: () => this.#readIndexHere(),
      decode: (bytes: Uint8Array) => countField(decodeEnvelope(bytes).header['index'], 'index'),
    };
    const { value: index } = await this.#calls.run(call, deadline);
    try {
      await this.#node.waitApplied(index, { signal: deadline.signal });
    } catch (error) {
      throw deadline.end === null ? fromRaft(error) : deadline.error(false, error);
    }
  }

  async #readIndexHere(): Promise<number> {
    try {
      return await this.#node.readIndex();
    } catch (error) {
      throw fromRaft(error);
    }
  }

  #executeHere(body: KvCommandBody): Promise<KvResult> {
    return this.#execute(encodeCommand({ ...body, request: this.#newRequest() }));
  }

  /** Proposes a command here. One that is sent again while it is under way waits for the first. */
  #execute(request: Uint8Array): Promise<KvResult> {
    const { id } = decodeCommand(request).request;
    const earlier = this.#executing.get(id);
    if (earlier) return earlier;
    const result = this.#node.propose(request).then(
      (proposed) => proposed.result as KvResult,
      (error: unknown) => {
        throw fromRaft(error);
      },
    );
    this.#executing.set(id, result);
    const done = (): void => {
      this.#executing.delete(id);
    };
    result.then(done, done);
    return result;
  }

  #leaderCalls(connections: PeerConnections, book: MemberBook): LeaderCalls {
    const { id: self, clock } = this.#options;
    const ways = {
      endpoint: (id: string) => connections.channel(id),
      metadata: (to: string) => connections.metadata(to),
    };
    const outcast = new OutcastProbe({
      ...ways,
      others: () => book.all().flatMap(({ id }) => (id === self ? [] : id)),
      clock,
      signal: this.#closed.signal,
    });
    return new LeaderCalls({
      ...ways,
      id: self,
      leaderId: () => this.#node.status().leaderId,
      refusal: () => outcast.refusal(),
    });
  }

  #callers(book: MemberBook): RaftCallers {
    return {
      heard: (id, level) => {
        this.#level.heard(id, level);
      },
      learn: (id, address) => {
        book.learn([{ id, address }]);
      },
      isMember: (id) => {
        if (this.#members.has(id)) return true;
        const record = this.#recorded.get(id);
        return record !== null && record.removedAtMs === undefined;
      },
      hasLeft: (id) => this.#recorded.get(id)?.removedAtMs !== undefined && !this.#members.has(id),
      whyGone: (id) => {
        const item = this.#machine.state.get(forgottenKey(id));
        return item && goneForEver(decodeForgotten(item.key, item.value)).message;
      },
    };
  }

  #receive(from: string, batch: Uint8Array): void {
    const messages = decodeMessages(batch);
    const foreign = messages.find((message) => message.from !== from);
    if (foreign) {
      throw new StorError('PROTOCOL', `${from} sent a message as if from ${foreign.from}`);
    }
    this.#node.step(messages);
  }

  #newRequest(): { id: string; since: number } {
    return { id: this.#newId(12), since: this.#machine.state.sequence };
  }

  #newId(bytes: number): string {
    return Buffer.from(this.#options.random.bytes(bytes)).toString('hex');
  }

  #noticeLeadership(): void {
    if (this.#closed.signal.aborted) return;
    const { isLeader } = this.status();
    if (isLeader) this.#level.look();
    if (isLeader === this.#wasLeader) return;
    this.#wasLeader = isLeader;
    this.#notify(isLeader);
  }

  #becomeFollower(): void {
    if (this.#wasLeader) this.#notify(false);
    this.#wasLeader = false;
  }

  #notify(isLeader: boolean): void {
    for (const listener of [...this.#listeners]) listener(isLeader);
  }
}

/** Members are found where their records say. */
function learnAddresses(records: ReadonlyMap<string, MemberRecord>, book: MemberBook): void {
  const stay = [...records.values()].filter(({ removedAtMs }) => removedAtMs === undefined);
  book.learn(stay.map(({ id, address }) => ({ id, address })));
}

function stopped(cause: StorError): StorError {
  const message = `this member of the cluster store has stopped: ${cause.message}`;
  return new StorError('UNAVAILABLE', message, { cause });
}
