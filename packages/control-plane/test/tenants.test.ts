import type { NodeId } from '@stor/protocol';
import { hasCode } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { divideTenant, firstParts, sharedParts, shareOf } from '../src/core/qos/divide-tenant.ts';
import { tenantSharesKey } from '../src/resources/keys.ts';
import type { NodeShare } from '../src/resources/tenant-record.ts';
import { Rig } from './control-plane-rig.ts';

type Division = Record<NodeId, NodeShare>;
const ids = ['a', 'b', 'c', 'd'];

/** A node: it may see any division that was ever written, never an older one than before. */
class Node {
  seen = 0;
  confirmed = 0;
  isUser = false;
  /** it holds its lease, and knows that */
  isLeased = true;
  /** the leader has given up on it */
  isGone = false;

  parts(id: NodeId, divisions: readonly Division[]): number {
    return this.isLeased ? (divisions[this.seen]?.[id]?.parts ?? 0) : 0;
  }
}

const step = fc.tuple(
  fc.constantFrom('divide', 'see', 'confirm', 'attach', 'detach', 'cut', 'give-up', 'back'),
  fc.constantFrom(...ids),
);

t.test('nodes never use more than there is, whatever comes late or never', async (t) => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const divisions: Division[] = [{}];
      const nodes = new Map(ids.map((id) => [id, new Node()]));
      const divide = (): boolean => {
        const at = divisions.length - 1;
        const next = divideTenant(
          divisions[at] ?? {},
          [...nodes].map(([id, { isUser, isGone, confirmed }]) => {
            return { id, isUser, isGone, hasConfirmed: confirmed === at };
          }),
        );
        if (next) divisions.push(next);
        return next !== null;
      };
      for (const [what, id] of steps) {
        const node = nodes.get(id) ?? new Node();
        const last = divisions.length - 1;
        if (what === 'divide') divide();
        else if (what === 'see') node.seen = Math.min(last, node.seen + 1);
        else if (what === 'confirm' && node.isLeased) node.confirmed = node.seen;
        else if (what === 'attach') node.isUser = true;
        else if (what === 'detach') node.isUser = false;
        else if (what === 'cut') node.isLeased = false;
        // only after the node knows itself
        else if (what === 'give-up') node.isGone = !node.isLeased;
        else if (what === 'back') {
          // with a lease it reads all there is first
          if (!node.isLeased) node.seen = last;
          Object.assign(node, { isLeased: true, isGone: false });
        }
        const used = [...nodes].reduce((sum, [each, n]) => sum + n.parts(each, divisions), 0);
        if (used > sharedParts) return false;
        const bound = Object.values(divisions.at(-1) ?? {}).reduce((sum, s) => sum + s.atMost, 0);
        if (bound > sharedParts) return false;
      }
      // when everybody hears and answers, users come to equal parts, and then nothing is written
      for (let i = 0; i < 12; i++) {
        for (const node of nodes.values()) {
          node.seen = divisions.length - 1;
          if (node.isLeased) node.confirmed = node.seen;
        }
        for (const node of nodes.values()) node.isGone = !node.isLeased;
        if (!divide()) break;
      }
      if (divide()) return false;
      const users = [...nodes].filter(([, node]) => node.isUser && !node.isGone);
      const fair = Math.floor(sharedParts / users.length);
      return users.every(([id]) => divisions.at(-1)?.[id]?.parts === fair);
    }),
    { numRuns: 400 },
  );
  t.pass('for any order of events');
});

t.test('what falls to a node', async (t) => {
  t.equal(firstParts(3), 10);
  for (let nodes = 1; nodes <= 100; nodes++) {
    t.ok(firstParts(nodes) * nodes <= 100, `${nodes} nodes that were given nothing yet`);
  }
  const qos = { iops: 20_000, readBps: 2 ** 20, burst: { factor: 2, seconds: 30 } };
  t.same(shareOf(qos, 5_000), { iops: 10_000, readBps: 2 ** 19, burst: qos.burst });
  t.same(shareOf({ iops: 0, bps: 4_096 }, 1), { bps: 1 });
});

t.test('the volumes of a tenant share its limits on all nodes', async (t) => {
  const rig = await Rig.open(3);
  t.teardown(() => rig.close());
  for (const node of rig.nodes) node.agent.reaches = (nodeId) => rig.isAlive(nodeId);
  const client = rig.client();
  const during = <T>(promise: Promise<T>): Promise<T> => rig.during(promise);
  const labels = { tenant: 'acme' };
  const made: string[] = [];
  for (const name of ['a', 'b']) {
    const volume = await during(
      client.createVolume({ name, sizeBytes: 2 ** 30, replicas: 3, labels }),
    );
    made.push(volume.metadata.id);
  }
  const told = (node: number, volume: number): number | undefined =>
    rig.node(node).agent.attached.get(made[volume] ?? '')?.grant.qos?.tenant?.share.iops;
  await during(client.attachVolume({ name: 'a', node: 'n1' }));
  t.equal(told(0, 0), undefined, 'no limits yet');
  const set = await during(client.setTenant({ name: 'acme', qos: { iops: 10_000 } }));
  t.match(set, { metadata: { name: 'acme' }, spec: { qos: { iops: 10_000 } } });
  await rig.until(() => told(0, 0) === 9_910);

  await during(client.attachVolume({ name: 'b', node: 'n2' }));
  await rig.until(() => told(0, 0) === 4_960);
  await rig.until(() => told(1, 1) === 4_960);
  const shown = await client.getTenant({ name: 'acme' });
  t.match(shown.status, {
    volumes: 2,
    nodes: [
      { node: 'n1', parts: 4_960 },
      { node: 'n2', parts: 4_960 },
    ],
  });

  // while nothing happens nothing is written
  const store = rig.cluster.store(rig.node(0).id);
  const key = tenantSharesKey('acme');
  const before = await store.get(key, { local: true });
  for (let i = 0; i < 500; i++) await rig.turn();
  t.equal((await store.get(key, { local: true }))?.modRevision, before?.modRevision);

  // what a dead node had goes to the other one, and not before its lease has run out
  await rig.kill(rig.node(0));
  rig.cluster.setLeader(rig.node(1).id);
  t.equal(told(1, 1), 4_960);
  await rig.until(() => told(1, 1) === 9_910);
  const left = rig.client([rig.node(1).api]);
  await during(left.removeTenant({ name: 'acme' }));
  await rig.until(() => told(1, 1) === undefined);
  await rig.until(async () => (await store.get(key, { local: true })) === null);
});

t.test('what no tenant can have is refused', async (t) => {
  const rig = await Rig.open(1);
  t.teardown(() => rig.close());
  const client = rig.client();
  const refused = (promise: Promise<unknown>) =>
    rig.during(promise.catch((error: unknown) => error));
  const bad = [{ weight: 5 }, { minIops: 5 }, { minBps: 4_096 }, { iops: -1 }];
  for (const qos of bad) {
    const error = await refused(client.setTenant({ name: 'acme', qos }));
    t.ok(hasCode(error, 'INVALID_ARGUMENT'), JSON.stringify(qos));
  }
  for (const name of ['', 'a b', 'x'.repeat(129)]) {
    t.ok(hasCode(await refused(client.setTenant({ name })), 'INVALID_ARGUMENT'), name);
  }
  t.ok(hasCode(await refused(client.getTenant({ name: 'no' })), 'NOT_FOUND'));
  t.ok(hasCode(await refused(client.removeTenant({ name: 'no' })), 'NOT_FOUND'));
  t.same((await client.listTenants({})).tenants, []);
  const made = await rig.during(client.setTenant({ name: 'team/a', qos: { iops: 5 } }));
  const { id, resourceVersion } = made.metadata;
  await rig.during(client.setTenant({ name: id, qos: { bps: 4_096 }, resourceVersion }));
  const late = client.setTenant({ name: 'team/a', qos: { iops: 6 }, resourceVersion });
  t.ok(hasCode(await refused(late), 'CONFLICT'));
  t.same((await client.getTenant({ name: 'team/a' })).spec.qos, { iops: 5, bps: 4_096 });
});
