import fc from 'fast-check';
import t from 'tap';
import {
  changedQos,
  checkQos,
  effectiveQos,
  hasCode,
  knownQos,
  maxQosBps,
  maxQosIops,
  qosFields,
} from '../src/index.ts';
import type { QosSpec } from '../src/index.ts';

t.test('each wish out of range or against another is refused with what to do', async (t) => {
  const table: [QosSpec, RegExp][] = [
    [{ iops: -1 }, /^iops=-1 is out of range: use whole 1 to 100000000 requests per second$/],
    [{ iops: 1.5 }, /^iops=1.5 is out of range/],
    [{ iops: NaN }, /^iops=NaN is out of range/],
    [{ readIops: maxQosIops + 1 }, /^read-iops=100000001 is out of range/],
    [{ bps: 4095 }, /^bps=4095 is out of range: use whole 4KiB to 1TiB per second$/],
    [{ writeBps: maxQosBps + 1 }, /^write-bps=.* is out of range/],
    [{ weight: 0 }, /^weight=0 is out of range: use 1 to 10000$/],
    [{ weight: 10_001 }, /^weight=10001 is out of range/],
    [{ burst: { factor: 0.5, seconds: 3 } }, /^burst=0.5x\/3s is out of range: use 1x to 100x/],
    [{ burst: { factor: 2, seconds: 0 } }, /^burst=2x\/0s is out of range/],
    [{ burst: { factor: Infinity, seconds: 1 } }, /^burst=Infinityx\/1s is out of range/],
    [
      { iops: 100, readIops: 200 },
      /^read-iops=200 is above iops=100, which counts reads and writes together, .*: lower it or raise iops$/,
    ],
    [{ bps: 2 ** 20, writeBps: 2 ** 21 }, /^write-bps=2MiB is above bps=1MiB/],
    [
      { iops: 100, minIops: 101 },
      /^the guarantee min-iops=101 is above what iops=100 lets through: lower it or raise the limit$/,
    ],
    [
      { readIops: 10, writeIops: 10, minIops: 21 },
      /^the guarantee min-iops=21 is above what read-iops=10 and write-iops=10 let through/,
    ],
    [{ bps: 2 ** 20, minBps: 2 ** 21 }, /^the guarantee min-bps=2MiB is above what bps=1MiB/],
  ];
  for (const [spec, message] of table) {
    try {
      checkQos(spec);
      t.fail(JSON.stringify(spec));
    } catch (error) {
      t.ok(hasCode(error, 'INVALID_ARGUMENT'));
      t.match((error as Error).message, message);
    }
  }
});

t.test('what is allowed', async (t) => {
  const table: QosSpec[] = [
    {},
    { iops: 0, minIops: 0, bps: 0 },
    { iops: 100, readIops: 100, writeIops: 100, minIops: 100 },
    // the sum of both is less than the limit for both: that is never reached, and harms nobody
    { iops: 100, readIops: 10, writeIops: 10, minIops: 20 },
    // only reads are limited, so writes can make up the guarantee
    { readIops: 10, minIops: 1_000 },
    { iops: 100, minBps: 2 ** 30 },
    { burst: { factor: 1.5, seconds: 30 }, weight: 1 },
    { weight: 10_000, bps: 4096 },
  ];
  for (const spec of table) t.doesNotThrow(() => checkQos(spec), JSON.stringify(spec));
});

t.test('fields are set and taken back one by one', async (t) => {
  const spec = { iops: 100, minIops: 50, weight: 7 };
  t.same(changedQos(spec, { iops: 200 }, ['weight']), { iops: 200, minIops: 50 });
  t.same(changedQos(spec, {}, [...qosFields]), {});
  t.same(changedQos(spec, { weight: 9 }, ['weight']), { ...spec, weight: 9 }, 'set after cleared');
  t.throws(() => changedQos(spec, { iops: 40 }, []), /min-iops=50 is above what iops=40/);
  t.throws(() => changedQos(spec, {}, ['toString']), /there is no QoS field "toString"/);
  const newer = { iops: 1, xNext: 4 } as QosSpec;
  t.same(changedQos(newer, { iops: 2 }, []), { iops: 2, xNext: 4 }, 'what is not known stays');
  t.same(knownQos({ iops: null, burst: null, weight: 3 }), { weight: 3 });
  t.same(knownQos(null), {});
});

const limit = fc.option(fc.constantFrom(0, 4096, 5_000, 10_000, 2 ** 20), { nil: undefined });
const wish: fc.Arbitrary<QosSpec> = fc
  .record({
    iops: limit,
    readIops: limit,
    writeIops: limit,
    bps: limit,
    readBps: limit,
    writeBps: limit,
    minIops: limit,
    minBps: limit,
    weight: fc.option(fc.integer({ min: 1, max: 10_000 }), { nil: undefined }),
    burst: fc.option(fc.constantFrom({ factor: 1, seconds: 1 }, { factor: 2, seconds: 30 }), {
      nil: undefined,
    }),
  })
  .map(knownQos);

t.test('the effective QoS is what the plain rules say, for any volume and policy', async () => {
  const through = (total = Infinity, read = Infinity, write = Infinity): number =>
    Math.min(total, read + write);
  fc.assert(
    fc.property(wish, fc.option(wish), (own, policy) => {
      const { qos, sources } = effectiveQos(own, policy);
      for (const field of qosFields) {
        const wanted = own[field] ?? policy?.[field];
        const isNone =
          wanted === undefined ||
          wanted === 0 ||
          (typeof wanted === 'object' && wanted.factor === 1);
        const from = own[field] === undefined ? 'policy' : 'volume';
        if (isNone !== (qos[field] === undefined)) return false;
        if (sources[field] !== (isNone ? undefined : from)) return false;
        if (isNone || field === 'minIops' || field === 'minBps') continue;
        if (qos[field] !== wanted) return false;
      }
      const mostIops = through(qos.iops, qos.readIops, qos.writeIops);
      const mostBps = through(qos.bps, qos.readBps, qos.writeBps);
      const least = own.minIops ?? policy?.minIops ?? 0;
      return (
        (qos.minIops ?? 0) === Math.min(least, mostIops) &&
        (qos.minBps ?? 0) === Math.min(own.minBps ?? policy?.minBps ?? 0, mostBps)
      );
    }),
  );
});
