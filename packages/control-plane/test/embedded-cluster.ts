import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { silentLogger, systemRandom } from '@stor/runtime';
import { PacedClock } from '@stor/runtime/testing';
import type { Test } from 'tap';
import { EmbeddedClusterStore, type EmbeddedStoreOptions } from '../src/embedded/index.ts';
import { grpcTransport } from '../src/rpc/grpc-transport.ts';
import type { MemberChange } from '../src/cluster-store.ts';
import { memberKey } from '../src/resources/keys.ts';
import type { MemberRecord } from '../src/resources/member-record.ts';
import { encodeRecord } from '../src/resources/records.ts';
import type { RpcServer } from '../src/rpc/rpc-transport.ts';

export const tickMs = 20;
export const clusterId = 'c-0123456789abcdef';

/** Waits until the condition holds; the test's own time limit ends it otherwise. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await pause(5);
}

interface Member {
  id: string;
  address: string;
  server: RpcServer | null;
  store: EmbeddedClusterStore | null;
  /** it came later and knows others only by what it was told: null, it is in the configuration */
  joined: { id: string; address: string }[] | null;
}

const placeOf = ({ id, address }: Member): { id: string; address: string } => ({ id, address });

/** Three members on free ports of the loopback address, with folders of their own. */
export class EmbeddedCluster {
  readonly members: Member[] = [];
  readonly clock = new PacedClock();
  readonly #folder: string;
  readonly #options: Partial<EmbeddedStoreOptions>;

  private constructor(folder: string, options: Partial<EmbeddedStoreOptions>) {
    this.#folder = folder;
    this.#options = options;
  }

  static async open(
    t: Test,
    options: Partial<EmbeddedStoreOptions> = {},
    size = 3,
  ): Promise<EmbeddedCluster> {
    const cluster = new EmbeddedCluster(t.testdir(), options);
    for (let i = 1; i <= size; i++) {
      const server = await grpcTransport().createServer();
      const port = await server.listen('127.0.0.1', 0);
      cluster.members.push({
        id: `n${i}`,
        address: `127.0.0.1:${port}`,
        server,
        store: null,
        joined: null,
      });
    }
    t.teardown(() => cluster.close());
    await Promise.all(cluster.members.map((member) => cluster.#openStore(member)));
    await cluster.ready();
    return cluster;
  }

  /** A new member, that is told where `from` is; a leader still has to add it. */
  async join(id: string, from: string): Promise<void> {
    const server = await grpcTransport().createServer();
    const port = await server.listen('127.0.0.1', 0);
    const joined = this.store(from).members.addresses();
    const address = `127.0.0.1:${port}`;
    const member: Member = { id, address, server, store: null, joined };
    this.members.push(member);
    await this.#openStore(member);
    // what it is told now is not told again at its next start
    member.joined = [];
  }

  /** A record of the member, as a join writes it, or of its end. */
  async record(id: string, more: Partial<MemberRecord> = {}): Promise<void> {
    const { address } = this.#member(id);
    const record = { id, name: id, address, addedAtMs: 0, ...more };
    await this.store(this.leaderId()).transact({
      compare: [],
      operations: [{ type: 'put', key: memberKey(id), value: encodeRecord(record) }],
    });
  }

  /** Has the leader change the members, whoever it is then, until it is done. */
  async change(...changes: MemberChange[]): Promise<void> {
    await until(async () => {
      const leader = this.stores().find((store) => store.status().isLeader);
      if (!leader) return false;
      const done = leader.members.change(changes, AbortSignal.timeout(5_000));
      return done.then(
        () => true,
        () => false,
      );
    });
  }

  folderOf(id: string): string {
    return path.join(this.#folder, id);
  }

  stores(): EmbeddedClusterStore[] {
    return this.members.flatMap(({ store }) => store ?? []);
  }

  store(id: string): EmbeddedClusterStore {
    const store = this.#member(id).store;
    if (!store) throw new Error(`${id} is down`);
    return store;
  }

  /** Waits until all open members know one leader and it can commit. */
  async ready(): Promise<void> {
    const [first] = this.stores();
    await first?.list('', { timeoutMs: 15_000 });
    await until(() => {
      const leaders = new Set(this.stores().map((store) => store.status().leaderId));
      return leaders.size === 1 && !leaders.has(null);
    });
  }

  leaderId(): string {
    const leader = this.stores().find((store) => store.status().isLeader);
    return this.members.find(({ store }) => store === leader && store)?.id ?? '';
  }

  followerIds(): string[] {
    const leaderId = this.leaderId();
    return this.members.flatMap(({ id, store }) => (store && id !== leaderId ? id : []));
  }

  /** Others no longer reach the member, but it reaches them; `stop` and `start` end that. */
  deafen(id: string): void {
    this.#member(id).server?.forceShutdown();
  }

  /** Connections break first, then the member stops: others see a death, not a farewell. */
  async stop(id: string): Promise<void> {
    const member = this.#member(id);
    member.server?.forceShutdown();
    await member.store?.close();
    member.store = null;
    member.server = null;
  }

  async start(id: string): Promise<void> {
    const member = this.#member(id);
    const server = await grpcTransport().createServer();
    member.server = server;
    await this.#openStore(member);
    await server.listen('127.0.0.1', Number(member.address.split(':')[1]));
  }

  async close(): Promise<void> {
    await Promise.all(this.members.map(({ id }) => this.stop(id)));
  }

  #member(id: string): Member {
    const member = this.members.find((one) => one.id === id);
    if (!member) throw new Error(`no member ${id}`);
    return member;
  }

  async #openStore(member: Member): Promise<void> {
    member.store = await EmbeddedClusterStore.open({
      clusterId,
      id: member.id,
      address: member.address,
      ...(member.joined
        ? { members: [], voters: [], known: member.joined }
        : { members: this.members.filter(({ joined }) => !joined).map(placeOf) }),
      dataPath: this.folderOf(member.id),
      server: member.server as RpcServer,
      clock: this.clock,
      random: systemRandom,
      logger: silentLogger,
      tickMs,
      ...this.#options,
    });
  }
}
