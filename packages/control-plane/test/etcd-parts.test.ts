import { hasCode } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import type { WatchEvent } from '../src/cluster-store.ts';
import { parseEtcdAddress } from '../src/core/etcd/etcd-address.ts';
import { judgeEtcdError } from '../src/core/etcd/etcd-errors.ts';
import type { EtcdEvent } from '../src/core/etcd/etcd-messages.ts';
import {
  checkEtcdTransaction,
  etcdLimits,
  isLeaseId,
  keyBytes,
  keyText,
  leaseIdFrom,
  rangeEnd,
  txnRequest,
} from '../src/core/etcd/etcd-values.ts';
import { WatchAssembler } from '../src/core/etcd/watch-assembler.ts';

t.test('addresses', async (t) => {
  t.same(parseEtcdAddress('etcd://10.0.0.1:2379'), {
    user: null,
    endpoints: ['10.0.0.1:2379'],
    prefix: 'stor/',
  });
  t.same(parseEtcdAddress('etcd://stor@a.example:1,[::1]:2/prod/one/'), {
    user: 'stor',
    endpoints: ['a.example:1', '[::1]:2'],
    prefix: 'prod/one/',
  });
  for (const bad of [
    'http://h:1',
    'etcd://',
    'etcd://h',
    'etcd://h:0',
    'etcd://h:70000',
    'etcd://h:1,',
    'etcd://h:1,h:1',
    'etcd://@h:1',
    'etcd://a b@h:1',
    'etcd://u:p@h:1',
    'etcd://h:1/a//b',
    'etcd://h:1/a b',
    `etcd://h:1/${'x'.repeat(65)}`,
    `etcd://${Array.from({ length: 17 }, (_, i) => `h${i}:1`).join(',')}`,
  ]) {
    const error = await Promise.resolve(bad)
      .then(parseEtcdAddress)
      .catch((reason: unknown) => reason);
    t.ok(hasCode(error, 'INVALID_ARGUMENT'), `${bad}: ${String(error)}`);
  }
});

t.test('ranges hold what begins with the prefix, and nothing else', async () => {
  const key = fc.string({
    unit: fc.integer({ min: 0x20, max: 0x7e }).map((c) => String.fromCharCode(c)),
    minLength: 1,
    maxLength: 6,
  });
  fc.assert(
    fc.property(key, key, (prefix, other) => {
      const start = Buffer.from(keyBytes(prefix));
      const end = Buffer.from(rangeEnd(prefix));
      const at = Buffer.from(keyBytes(other));
      const isInside = start.compare(at) <= 0 && at.compare(end) < 0;
      return isInside === other.startsWith(prefix) && keyText(at) === other;
    }),
  );
});

t.test('lease ids', async (t) => {
  t.equal(leaseIdFrom(new Uint8Array(8)), '1', 'never 0, which means none');
  t.equal(leaseIdFrom(new Uint8Array(8).fill(255)), String(2n ** 63n - 1n));
  for (const id of ['', '0', '01', '-1', 'abc', String(2n ** 63n)]) t.notOk(isLeaseId(id), id);
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 8, maxLength: 8 }), (bytes) => {
      return isLeaseId(leaseIdFrom(bytes));
    }),
  );
});

t.test('what etcd would refuse is refused with a reason', async (t) => {
  const puts = (count: number, bytes: number) => ({
    compare: [],
    operations: Array.from({ length: count }, (_, i) => {
      return { type: 'put' as const, key: `k${i}`, value: new Uint8Array(bytes) };
    }),
  });
  checkEtcdTransaction(puts(etcdLimits.maxTransactionItems, 1), 'p/');
  t.throws(() => {
    checkEtcdTransaction(puts(etcdLimits.maxTransactionItems + 1, 1), 'p/');
  }, /129 items is more than etcd takes \(128\)/);
  t.throws(() => {
    checkEtcdTransaction(puts(2, 700_000), 'p/');
  }, /more than etcd takes \(1400000\)/);
});

t.test('a transaction that only compares is made linearizable by a read', async (t) => {
  const request = txnRequest({ compare: [{ key: 'a', modRevision: 0 }], operations: [] }, 'p/');
  t.match(request, {
    compare: [{ key: keyBytes('p/a'), modRevision: 0 }],
    success: [{ requestRange: { countOnly: true } }],
  });
});

t.test('errors of etcd', async (t) => {
  const codeOf = (text: string): string => {
    const verdict = judgeEtcdError(text);
    return verdict.fate === 'final' ? verdict.error.code : verdict.fate;
  };
  t.equal(codeOf('etcdserver: requested lease not found'), 'NOT_FOUND');
  t.equal(codeOf('etcdserver: mvcc: database space exceeded'), 'NO_SPACE');
  t.equal(codeOf('etcdserver: mvcc: required revision has been compacted'), 'FAILED_PRECONDITION');
  t.equal(codeOf('etcdserver: no leader'), 'again');
  t.equal(codeOf('etcdserver: too many requests'), 'again');
  // a write that timed out in the server may be committed later
  t.equal(codeOf('etcdserver: request timed out'), 'unknown');
  t.equal(
    codeOf('etcdserver: request timed out, possibly due to previous leader failure'),
    'unknown',
  );
  t.equal(codeOf('etcdserver: server stopped'), 'unknown');
  t.equal(codeOf('No connection established'), 'unknown');
});

/** Some revisions of some events each, as etcd would send them. */
const history = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 3 })), { maxLength: 8 })
  .map((parts) => {
    let revision = 0;
    return parts.map(([step, count]) => {
      revision += step;
      return Array.from({ length: count }, (_, i) => eventAt(revision, i));
    });
  });

function eventAt(revision: number, i: number): EtcdEvent {
  const kv = {
    key: keyBytes(`p/k${i}`),
    value: keyBytes(`${revision}`),
    createRevision: '1',
    modRevision: String(revision),
    lease: '0',
  };
  return i % 2 === 0
    ? { type: 'PUT', kv, prevKv: null }
    : { type: 'DELETE', kv, prevKv: { ...kv, lease: '7' } };
}

t.test('batches are whole revisions, each once, however the stream is cut', async (t) => {
  fc.assert(
    fc.property(history, fc.array(fc.nat(20)), fc.array(fc.nat(6)), (batches, cuts, breaks) => {
      const last = batches.at(-1)?.[0]?.kv.modRevision ?? '0';
      const assembler = new WatchAssembler('p/', 0);
      const told: WatchEvent[][] = [];
      const turns = [...breaks, Infinity];
      for (const stopAfter of turns) {
        // a stream begins after what was told, and may break anywhere, also inside a revision
        assembler.restart();
        const rest = batches.filter((batch) => {
          return Number(batch[0]?.kv.modRevision) > assembler.afterRevision;
        });
        let sent = 0;
        for (const [index, batch] of rest.entries()) {
          const cut = Math.min(batch.length, cuts[index] ?? batch.length);
          const pieces = [batch.slice(0, cut), batch.slice(cut)];
          for (const [piece, events] of pieces.entries()) {
            if (sent++ >= stopAfter) break;
            told.push(...assembler.add({ events, fragment: piece === 0 }));
          }
        }
        if (Number(last) === assembler.afterRevision) break;
      }
      const expected = batches.map((batch) =>
        batch.map(({ type, kv }) => [type === 'PUT' ? 'put' : 'delete', keyText(kv.key).slice(2)]),
      );
      const found = told.map((batch) => batch.map(({ type, key }) => [type, key]));
      return JSON.stringify(found) === JSON.stringify(expected);
    }),
  );
  const assembler = new WatchAssembler('p/', 4);
  const [batch] = assembler.add({ events: [eventAt(4, 0), eventAt(5, 1)], fragment: false });
  t.same(batch, [{ type: 'delete', key: 'k1', value: null, revision: 5, leaseId: '7' }]);
  t.throws(
    () => assembler.add({ events: [eventAt(9, 0), eventAt(8, 0)], fragment: false }),
    /revision 8 after 9/,
  );
});
