import { hasCode, StorError } from '@stor/protocol';
import { silentLogger, systemRandom } from '@stor/runtime';
import { FakeClock, SeededRandom } from '@stor/runtime/testing';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import type { ClusterStore } from '../src/cluster-store.ts';
import { decodeFreeze, decodeOrigin } from '../src/core/store-move/move-records.ts';
import type { MoveStep } from '../src/core/store-move/next-step.ts';
import { FreezableStore, freezeKey, originKey, StoreMove } from '../src/store-move/index.ts';
import type { MoveStore, TargetOfMove } from '../src/store-move/index.ts';
import * as keys from '../src/resources/keys.ts';
import { MemoryCluster } from '../src/testing/index.ts';

const to = 'etcd://h:1/new';
const clusterId = 'c-0123456789abcdef';
const text = (value: string): Uint8Array => new TextEncoder().encode(value);
const allSteps: MoveStep[] = ['freeze', 'claim', 'copy', 'seal', 'complete', 'close'];

function memoryStore(): ClusterStore {
  return new MemoryCluster({ clock: new FakeClock() }).store('n1');
}

/** Two stores and a user of the old one. */
class World {
  readonly old = memoryStore();
  next = memoryStore();
  readonly user = new FreezableStore(this.old);
  written = 0;

  move(
    onStep: (step: MoveStep) => void = () => {},
    target: MoveStore = this.next,
    opened: (target: TargetOfMove) => void = () => {},
  ): StoreMove {
    return new StoreMove({
      clusterId,
      from: 'embedded',
      old: this.old,
      openTarget: async (of) => ({
        ...(opened(of), {}),
        get: target.get.bind(target),
        list: target.list.bind(target),
        transact: target.transact.bind(target),
        close: () => {},
      }),
      clock: new FakeClock(),
      random: systemRandom,
      logger: silentLogger,
      onStep,
    });
  }

  /** One write of the user; false when the store is frozen. */
  async write(): Promise<boolean> {
    try {
      const value = text(String(this.written + 1));
      const operations = [
        { type: 'put' as const, key: `/stor/k${this.written % 7}`, value },
        { type: 'put' as const, key: '/stor/last', value },
      ];
      const { succeeded } = await this.user.transact({ compare: [], operations });
      if (succeeded) this.written++;
      return succeeded;
    } catch (error) {
      if (!hasCode(error, 'UNAVAILABLE')) throw error;
      return false;
    }
  }

  /** As agents do once the new store is complete, when the old one takes nothing any more. */
  async writeAnywhere(): Promise<void> {
    if (await this.write()) return;
    if (!(await this.actors()).next) return;
    const value = text(String(++this.written));
    const operations = [{ type: 'put' as const, key: '/stor/last', value }];
    await this.next.transact({ compare: [], operations });
  }

  /** Where agents may act: the old store unless it is frozen, the new one once it is complete. */
  async actors(): Promise<{ old: boolean; next: boolean }> {
    const origin = await this.next.get(originKey);
    return {
      old: (await this.old.get(freezeKey)) === null,
      next: origin !== null && decodeOrigin(origin.value).phase === 'complete',
    };
  }

  async check(t: Test): Promise<void> {
    const actors = await this.actors();
    t.notOk(actors.old && actors.next, 'never both');
    if (!actors.next) return;
    const last = await this.next.get('/stor/last');
    t.equal(new TextDecoder().decode(last?.value), String(this.written), 'the last write is there');
  }
}

async function killedAt(world: World, step: MoveStep): Promise<void> {
  const move = world.move((at) => {
    if (at === step) throw new StorError('INTERNAL', 'killed');
  });
  await move.run(to, undefined).catch((error: unknown) => {
    if (!hasCode(error, 'INTERNAL')) throw error;
  });
}

t.test('everything is moved, in its order, but what hangs on a lease', async (t) => {
  const world = new World();
  for (let i = 0; i < 230; i++) {
    const operations = [{ type: 'put' as const, key: `/stor/v${i % 210}`, value: text(`${i}`) }];
    await world.old.transact({ compare: [], operations });
  }
  await world.write();
  const { leaseId } = await world.old.grantLease(60_000);
  const leased = { type: 'put' as const, key: '/stor/node-leases/n', value: text(''), leaseId };
  await world.old.transact({ compare: [], operations: [leased] });
  const { keys } = await world.move().run(to, undefined);
  t.equal(keys, 212);
  const { items } = await world.next.list('/stor/');
  const before = await world.old.list('/stor/');
  t.same(
    items.map(({ key, value }) => [key, value]),
    before.items.filter((item) => item.leaseId === '').map(({ key, value }) => [key, value]),
  );
  t.ok((items.find(({ key }) => key === '/stor/v0')?.modRevision ?? 0) > 2, 'changed late');
  t.match(decodeFreeze((await world.old.get(freezeKey))?.value as Uint8Array), { phase: 'moved' });
  t.equal(await world.write(), false, 'the old store is dead');
  t.same(await world.move().run(to, undefined), { keys }, 'again: nothing is left to do');
});

t.test('killed before any step, it goes on, and never are both in use', async (t) => {
  for (const step of allSteps) {
    const world = new World();
    for (let i = 0; i < 10; i++) await world.write();
    await killedAt(world, step);
    await world.check(t);
    await world.write();
    await world.move().run(to, undefined);
    await world.check(t);
    t.same(await world.actors(), { old: false, next: true });
  }
});

t.test('it is given up until it is sealed, and begun anew', async (t) => {
  for (const step of allSteps) {
    const world = new World();
    await world.write();
    await killedAt(world, step);
    const mayAbort = ['claim', 'copy', 'seal'].includes(step);
    const aborted = await world
      .move()
      .abort()
      .then(() => true)
      .catch((error: unknown) => {
        t.ok(hasCode(error, 'FAILED_PRECONDITION'), String(error));
        return false;
      });
    t.equal(aborted, mayAbort, step);
    if (aborted || step === 'freeze') t.ok(await world.write(), 'the old store goes on');
    await world.check(t);
    await world.move().run(to, undefined);
    await world.check(t);
  }
});

t.test('to an embedded store: its members are chosen when nobody joins any more', async (t) => {
  for (const step of ['freeze', 'enlist', 'claim', 'copy', 'seal', 'complete', 'close'] as const) {
    const world = new World();
    const opened: string[] = [];
    const open = world.move.bind(world);
    const embedded = (onStep: (at: MoveStep) => void = () => {}): StoreMove =>
      open(onStep, world.next, ({ id = '', members }) => {
        t.ok(members, 'opened when its members are known');
        opened.push(id);
      });
    for (const id of ['n1', 'n2', 'n3', 'n4']) {
      await world.old.transact({ compare: [], operations: [putNode(id)] });
    }
    const { leaseId } = await world.old.grantLease(60_000);
    for (const id of ['n1', 'n2', 'n3']) {
      const lease = { agentInstance: 'a', bootId: 'b', addresses: addressesOf(id) };
      const key = `/stor/node-leases/${id}`;
      const operation = { type: 'put' as const, key, value: text(JSON.stringify(lease)), leaseId };
      await world.old.transact({ compare: [], operations: [operation] });
    }
    await world.write();
    const killed = embedded((at) => {
      if (at === step) throw new StorError('INTERNAL', 'killed');
    });
    await t.rejects(killed.run('embedded', undefined), { code: 'INTERNAL' });
    await world.check(t);
    const mayAbort = ['enlist', 'claim', 'copy', 'seal'].includes(step);
    const aborted = await embedded()
      .abort()
      .then(() => true)
      .catch(() => false);
    t.equal(aborted, mayAbort, `${step}: abort`);
    if (aborted) {
      t.ok(await world.write(), 'the old store goes on');
      // what the members of the move that was given up have is set aside
      world.next = memoryStore();
    }
    await embedded().run('embedded', undefined);
    await world.check(t);
    const { id, members } = decodeFreeze((await world.old.get(freezeKey))?.value as Uint8Array);
    t.equal(opened.at(-1), id);
    t.same(
      members?.voters.map((member) => member.id),
      ['n1', 'n2', 'n3'],
    );
    t.same(members?.learners, [{ id: 'n4', address: 'n4:10' }]);
  }
  const empty = new World();
  await t.rejects(empty.move().run('embedded', undefined), {
    code: 'FAILED_PRECONDITION',
    message: /no node can vote/,
  });
  t.ok(await empty.write(), 'nothing was frozen');
});

function addressesOf(id: string): object {
  return { api: `${id}:10`, http: '', peers: [], nbd: [], nbdUnix: [] };
}

function putNode(id: string): { type: 'put'; key: string; value: Uint8Array } {
  const record = {
    id,
    name: id,
    labels: {},
    createdAtMs: 1,
    addresses: addressesOf(id),
    agentInstance: 'a',
    bootId: 'b',
    version: '1',
  };
  return { type: 'put', key: `/stor/nodes/${id}`, value: text(JSON.stringify(record)) };
}

t.test('a target in use is refused, and so is another move meanwhile', async (t) => {
  const world = new World();
  await world.next.transact({
    compare: [],
    operations: [{ type: 'put', key: '/stor/cluster', value: text('{}') }],
  });
  await t.rejects(world.move().run(to, undefined), {
    code: 'FAILED_PRECONDITION',
    message: /is in use/,
  });
  t.ok(await world.write(), 'nothing was frozen');
  const other = new World();
  await killedAt(other, 'copy');
  await t.rejects(other.move().run('etcd://h:1/elsewhere', undefined), { message: /already/ });
  await t.rejects(world.move().abort(), { message: /not being moved/ });
});

t.test('a mover that stood still while it copied changes nothing later', async (t) => {
  const world = new World();
  await world.write();
  let goOn = (): void => {};
  const gate = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  let stands = (): void => {};
  const standing = new Promise<void>((resolve) => {
    stands = resolve;
  });
  const target: MoveStore = {
    get: (...call) => world.next.get(...call),
    list: (...call) => world.next.list(...call),
    transact: async (transaction, options) => {
      if (transaction.operations.some(({ key }) => key === '/stor/last')) {
        stands();
        await gate;
      }
      return world.next.transact(transaction, options);
    },
  };
  const slow = world.move(() => {}, target).run(to, undefined);
  await standing;
  await world.move().run(to, undefined);
  await world.writeAnywhere();
  await world.check(t);
  goOn();
  await slow;
  await world.check(t);
});

t.test('any number of movers that stand still anywhere, and users that write', async () => {
  await fc.assert(
    fc.asyncProperty(fc.nat(), async (seed) => {
      const random = new SeededRandom(seed);
      const world = new World();
      for (let i = 0; i < 5; i++) await world.write();
      /** What waits between two calls to a store; the test lets one of them go on at a time. */
      const waiting: (() => void)[] = [];
      const turn = (): Promise<void> =>
        new Promise((resolve) => {
          waiting.push(resolve);
        });
      const slow = (store: MoveStore): MoveStore => ({
        get: async (...call) => turn().then(() => store.get(...call)),
        list: async (...call) => turn().then(() => store.list(...call)),
        transact: async (...call) => turn().then(() => store.transact(...call)),
      });
      const options = {
        clusterId,
        from: 'embedded',
        old: slow(world.old),
        openTarget: async () => ({ ...slow(world.next), close: () => {} }),
        clock: new FakeClock(),
        random: systemRandom,
        logger: silentLogger,
      };
      let open = 0;
      const begin = (run: (move: StoreMove) => Promise<unknown>): void => {
        open++;
        void run(new StoreMove(options))
          .catch((error: unknown) => {
            if (!hasCode(error, 'FAILED_PRECONDITION', 'CONFLICT')) throw error;
          })
          .finally(() => open--);
      };
      const problems: string[] = [];
      for (let i = 0; i < 150 || open > 0; i++) {
        const dice = random.next();
        if (i < 150 && open < 4 && dice < 0.1) begin((move) => move.run(to, undefined));
        else if (i < 150 && dice < 0.15) begin((move) => move.abort());
        else if (dice < 0.4) await world.writeAnywhere();
        else waiting.splice(Math.floor(random.next() * waiting.length), 1)[0]?.();
        for (let k = 0; k < 12; k++) await Promise.resolve();
        const { old, next } = await world.actors();
        if (old && next) problems.push('both are in use');
        const last = await world.next.get('/stor/last');
        const seen = Number(new TextDecoder().decode(last?.value));
        if (next && seen !== world.written) problems.push('a write is lost');
      }
      return problems.length === 0;
    }),
    { numRuns: 60 },
  );
});

t.test('everything that Stor keeps is carried over, of whatever kind', async (t) => {
  const world = new World();
  const kinds = Object.values(keys).filter((each) => typeof each === 'string');
  const isGroup = (kind: string): boolean => kind.endsWith('/');
  // '/stor' and '/stor/' are no kinds of their own
  const records = kinds
    .filter((kind) => kind !== keys.rootPrefix && kind !== keys.everythingPrefix)
    .map((kind) => (isGroup(kind) ? `${kind}one` : kind));
  t.ok(records.length > 20, `${records.length} kinds of keys.ts`);
  for (const name of [
    ...[keys.policyKey('one'), keys.tenantKey('one'), keys.tenantSharesKey('one')],
    ...[keys.shippedPoliciesKey, keys.policyUsesKey, keys.scrubSettingsKey, keys.rebalanceKey],
  ]) {
    t.ok(records.includes(name), name);
  }
  const put = (key: string) => {
    // whatever fields a record has, also such as this version does not know
    const value = text(JSON.stringify({ key, qos: { writeIops: 7 }, later: [key] }));
    return { type: 'put' as const, key, value };
  };
  await world.old.transact({ compare: [], operations: records.map(put) });
  const { keys: moved } = await world.move().run(to, undefined);
  const { items } = await world.next.list('');
  const there = new Map(items.map(({ key, value }) => [key, new TextDecoder().decode(value)]));
  // what is said of revisions of the old store would be taken for said of the new one
  const left = new Set([keys.sharesAppliedKey('one')]);
  for (const key of records) {
    const expected = left.has(key) ? undefined : new TextDecoder().decode(put(key).value);
    t.equal(there.get(key), expected, key);
  }
  t.equal(moved, records.length - left.size);
});

t.test(
  'what nodes confirmed of their shares does not count in a store of lower revisions',
  async (t) => {
    const applied = { type: 'put' as const, key: keys.sharesAppliedKey('n-1') };
    const fresh = new World();
    for (let i = 0; i < 50; i++) await fresh.write();
    const shares = { type: 'put' as const, key: keys.tenantSharesKey('t') };
    await fresh.old.transact({
      compare: [],
      operations: [{ ...shares, value: text('{}') }],
    });
    const { revision } = await fresh.old.list('');
    await fresh.old.transact({
      compare: [],
      operations: [{ ...applied, value: text(JSON.stringify({ revision })) }],
    });
    await fresh.move().run(to, undefined);
    const share = await fresh.next.get(shares.key);
    t.ok((share?.modRevision ?? 0) < revision, 'its revisions are lower');
    t.equal(await fresh.next.get(applied.key), null);
  },
);
