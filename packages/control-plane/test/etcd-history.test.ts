// An etcd that was emptied, exchanged, or put back to a backup is refused: before and while a node runs.
import { silentLogger, systemClock, systemRandom } from '@stor/runtime';
import { FakeClock } from '@stor/runtime/testing';
import t from 'tap';
import type { Test } from 'tap';
import { judgeHistory, type SeenEtcd } from '../src/core/etcd/judge-history.ts';
import { EtcdHistory } from '../src/etcd/etcd-history.ts';
import { EtcdClusterStore, type EtcdPin } from '../src/etcd/index.ts';
import { EtcdServers, needsEtcd } from '../src/testing/index.ts';
import { until } from './embedded-cluster.ts';

const address = 'h:1';
/** `verify` answers as soon as etcd does; with less a slow machine counts as an etcd that is away (ms). */
const patienceMs = 60_000;
const seen: SeenEtcd = { clusterId: '7', revision: 10, put: { key: 'p/k', revision: 9 } };

t.test('which past is the right one', async (t) => {
  const judge = (now: object) =>
    judgeHistory(seen, { address, clusterId: '7', revision: 10, ...now })?.message;
  t.equal(judge({ putRevision: 9 }), undefined);
  t.equal(judge({ revision: 99 }), undefined, 'nothing is kept of that time');
  t.match(
    judge({ clusterId: '8' }),
    /h:1 is refused: it belongs to etcd cluster 8.*stor-agent --restore/,
  );
  t.match(judge({ revision: 9 }), /at revision 9, and this node has seen revision 10/);
  t.match(
    judge({ revision: 99, putRevision: null }),
    /nothing of the change of p\/k at revision 9/,
  );
  t.match(judge({ revision: 99, putRevision: 8 }), /written since/);
});

t.test('what a node wrote is noted before it acts on it, many at once by one note', async (t) => {
  const clock = new FakeClock();
  const notes: SeenEtcd[] = [];
  const pin: EtcdPin = { known: null, note: (each) => void notes.push(each) };
  const history = new EtcdHistory({ pin, anyKey: 'p/', clock, logger: silentLogger });
  history.check({ address, clusterId: '7', revision: 3 });
  t.same(notes.at(-1), { clusterId: '7', revision: 3 });
  clock.advance(1_000);
  await history.wrote('p/a', 4);
  t.same(notes.at(-1), { clusterId: '7', revision: 4, put: { key: 'p/a', revision: 4 } });
  const waiting = [history.wrote('p/b', 5), history.wrote(null, 6), history.wrote('p/c', 7)];
  t.equal(notes.length, 2);
  clock.advance(60);
  await Promise.all(waiting);
  t.same(notes.at(-1), { clusterId: '7', revision: 7, put: { key: 'p/c', revision: 7 } });
  t.equal(notes.length, 3, 'one note for three');
  history.heard('p/d', 8);
  t.equal(notes.length, 3, 'what others did can wait');
  history.close();
  t.match(notes.at(-1), { revision: 8 });
});

/** A node's store, and its note, which outlives it. */
class Node {
  note: SeenEtcd | null = null;
  readonly #address: string;

  constructor(address: string) {
    this.#address = address;
  }

  async open(t: Test): Promise<EtcdClusterStore> {
    const pin: EtcdPin = {
      known: this.note,
      note: (each) => {
        this.note = each;
      },
    };
    const parts = { clock: systemClock, random: systemRandom, logger: silentLogger };
    const store = await EtcdClusterStore.open({ id: 'n1', address: this.#address, pin, ...parts });
    t.teardown(() => store.close());
    return store;
  }
}

async function put(store: EtcdClusterStore, key: string): Promise<void> {
  const operations = [{ type: 'put' as const, key, value: new Uint8Array(1) }];
  await store.transact({ compare: [], operations });
}

t.test('a real etcd loses its state', async (t) => {
  if (!needsEtcd(t)) return;
  const servers = await EtcdServers.start(t);
  const node = new Node(servers.address('p'));
  const first = await node.open(t);
  for (let i = 0; i < 5; i++) await put(first, `/early-${i}`);
  await first.close();
  const restart = async (copy: string | null): Promise<void> => {
    await servers.kill(0);
    servers.putBack(0, copy);
    servers.launch(0);
    await servers.ready();
  };
  await servers.kill(0);
  const backup = servers.copyOf(0);
  servers.launch(0);
  await servers.ready();
  const store = await node.open(t);
  for (let i = 0; i < 5; i++) await put(store, `/late-${i}`);
  const { revision } = await store.list('');
  t.ok((node.note?.revision ?? 0) >= revision, 'noted before the answer');
  await servers.kill(0);
  const newest = servers.copyOf(0);

  const refused = { code: 'FOREIGN_DATA', message: /emptied, or restored from an older backup/ };
  await restart(backup);
  await t.rejects(store.verify(patienceMs), refused, 'a node that runs');
  await t.rejects(put(store, '/wrong'), refused);
  const anew = await node.open(t);
  await t.rejects(anew.verify(patienceMs), refused, 'a node that begins anew');
  t.notOk(await new Node(servers.address('p')).open(t).then((each) => each.get('/wrong')));

  // another user of this etcd writes until the revision says nothing any more
  const guest = await new Node(servers.address('guest')).open(t);
  for (let i = 0; i < 30; i++) await put(guest, '/x');
  await t.rejects(anew.verify(patienceMs), { code: 'FOREIGN_DATA', message: /written since/ });
  await guest.close();

  await restart(null);
  await t.rejects(anew.verify(patienceMs), refused, 'an empty one');
  await restart(newest);
  await until(() =>
    put(store, '/right').then(
      () => true,
      () => false,
    ),
  );
  t.equal(await anew.verify(patienceMs), true, 'the right one is right again');
  await servers.kill(0);
  t.equal(await anew.verify(300), false, 'nothing is known of one that is away');
});

t.test('another etcd', async (t) => {
  if (!needsEtcd(t)) return;
  const [one, other] = await Promise.all([EtcdServers.start(t), EtcdServers.start(t)]);
  const node = new Node(one.address('p'));
  const store = await node.open(t);
  await put(store, '/k');
  await store.close();
  const wrong = new Node(other.address('p'));
  wrong.note = node.note;
  const refusing = await wrong.open(t);
  await t.rejects(refusing.verify(patienceMs), {
    code: 'FOREIGN_DATA',
    message: /belongs to etcd cluster \d+, and the state of this cluster is in \d+/,
  });
});
