import fc from 'fast-check';
import { StorError } from '@stor/protocol';
import type { Clock } from '@stor/runtime/clock';
import t from 'tap';
import { LatencyHistogram } from '../src/core/latency-histogram.ts';
import type { StorctlIo } from '../src/index.ts';
import { runLoad, type LoadResult } from '../src/volume-load.ts';
import { FakeCluster, startMs } from './support/fake-cluster.ts';
import { MemoryExport } from './support/memory-nbd.ts';
import { run } from './support/run.ts';

const mib = 2 ** 20;

/** Every look at it takes a tenth of a millisecond. */
function tickingClock(): Clock {
  let looks = 0;
  const nowMs = (): number => (looks += 1) / 10;
  return {
    monotonicMs: nowMs,
    wallMs: () => startMs + nowMs(),
    after: (_delayMs, fn) => {
      const timer = setImmediate(fn);
      return () => clearImmediate(timer);
    },
    endOfTurn: (fn) => void setImmediate(fn),
  };
}

async function withVolume(sizeBytes = mib) {
  const cluster = new FakeCluster();
  await run(cluster, ['volume', 'create', 'db', '--size', String(sizeBytes), '--replicas', '2']);
  const exports = new Map<string, MemoryExport>([['db', new MemoryExport(sizeBytes)]]);
  const openNbd: StorctlIo['openNbd'] = async (uri) => {
    const name = uri.slice(uri.lastIndexOf('/') + 1);
    const { sizeBytes: size } = cluster.volume(name).spec;
    const device = exports.get(name) ?? new MemoryExport(size);
    exports.set(name, device);
    return device.session();
  };
  const bench = (argv: string[], io: Partial<StorctlIo> = {}) =>
    run(cluster, ['volume', 'bench', ...argv], { openNbd, clock: tickingClock(), ...io });
  const temporary = () =>
    [...exports].filter(([name]) => name !== 'db').map(([, device]) => device);
  return { cluster, exports, bench, temporary, openNbd };
}

const changesOf = (device: MemoryExport | undefined) =>
  (device?.counts.write ?? 0) + (device?.counts.writeZeroes ?? 0);

t.test('a percentile is near the one that sorting gives', async () => {
  fc.assert(
    fc.property(
      fc.array(fc.double({ min: 0, max: 5e8, noNaN: true }), { minLength: 1, maxLength: 300 }),
      fc.constantFrom(0.5, 0.99, 0.999, 1),
      (values, share) => {
        const histogram = new LatencyHistogram();
        for (const value of values) histogram.record(value);
        const sorted = [...values].sort((a, b) => a - b);
        const exact = sorted[Math.ceil(share * sorted.length) - 1] ?? NaN;
        const limited = Math.min(exact, 2 ** 32 / 10);
        const off = Math.abs(histogram.quantileUs(share) - limited);
        return histogram.count === values.length && off <= limited * 0.017 + 0.1;
      },
    ),
  );
});

t.test('nothing was recorded', async (t) => {
  t.equal(new LatencyHistogram().quantileUs(0.5), 0);
});

t.test('by default the volume is read and nothing else', async (t) => {
  const { exports, bench, cluster } = await withVolume();
  const before = cluster.calls.length;
  const { exitCode, stdout, stderr } = await bench(['db', '--seconds', '0.1']);
  t.equal(exitCode, 0, stderr);
  const device = exports.get('db');
  t.equal(changesOf(device), 0);
  t.ok((device?.counts.read ?? 0) > 50);
  t.equal(device?.maxInFlight, 32);
  t.equal(device?.counts.closed, 1);
  t.same(stdout.match(/^.*QD \d+/gm), [
    '4KiB random read, QD 1',
    '4KiB random read, QD 32',
    '1MiB sequential read, QD 8',
  ]);
  t.match(stderr, /page cache/);
  t.same(
    cluster.calls.slice(before).filter(({ method }) => !/^(get|list)/.test(method)),
    [],
    'and the cluster is only asked',
  );
});

t.test('figures for programs', async (t) => {
  const { bench } = await withVolume();
  const { stdout } = await bench(['db', '--seconds', '0.1', '-o', 'json']);
  const results = JSON.parse(stdout) as LoadResult[];
  t.equal(results.length, 3);
  for (const { iops, requests, p50Us, p99Us, p999Us, bytesPerSecond } of results) {
    t.ok(iops > 0 && requests > 0 && bytesPerSecond > iops);
    t.ok(p50Us > 0 && p50Us <= p99Us && p99Us <= p999Us);
  }
});

t.test('what writes has a volume of its own, which goes away', async (t) => {
  for (const [io, rows] of [
    ['write', 3],
    ['flush', 1],
    ['all', 7],
  ] as const) {
    const { exports, bench, cluster, temporary } = await withVolume();
    const argv = ['db', '--io', io, '--seconds', '0.05', '--size', '2MiB', '-o', 'json'];
    const { exitCode, stdout, stderr } = await bench(argv);
    t.equal(exitCode, 0, stderr);
    t.equal((JSON.parse(stdout) as LoadResult[]).length, rows);
    t.equal(changesOf(exports.get('db')), 0, 'the volume itself is not written');
    const [device] = temporary();
    t.equal(temporary().length, 1);
    t.equal(device?.allocated.size, 512, 'it was filled');
    t.equal((device?.counts.flush ?? 0) > 2, io !== 'write');
    t.equal(device?.inFlight, 0);
    t.same(
      cluster.volumes.map(({ metadata }) => metadata.name),
      ['db'],
    );
    t.equal(cluster.trash.length, 0, 'it is not kept in the trash');
  }
});

t.test('it is as the volume is', async (t) => {
  const { bench, cluster, openNbd } = await withVolume();
  const seen: unknown[] = [];
  const argv = ['db', '--io', 'flush', '--seconds', '0.05', '--size', '2MiB'];
  await bench(argv, {
    openNbd: (uri, options) => {
      const name = uri.slice(uri.lastIndexOf('/') + 1);
      const { metadata, spec } = cluster.volume(name);
      seen.push([metadata.labels, spec.replicas, spec.sizeBytes]);
      return openNbd(uri, options);
    },
  });
  t.same(seen, [[{ 'bench-of': 'db' }, 2, 2 * mib]]);
});

t.test('an error and Ctrl-C leave no volume behind', async (t) => {
  for (const kind of ['full', 'interrupt'] as const) {
    const { bench, cluster, openNbd } = await withVolume();
    const stopper = new AbortController();
    const { exitCode } = await bench(['db', '--io', 'write', '--size', '2MiB'], {
      signal: stopper.signal,
      openNbd: async (uri, options) => {
        const session = await openNbd(uri, options);
        let writes = 0;
        const write = async (offset: number, bytes: Uint8Array): Promise<void> => {
          writes += 1;
          if (writes > 10 && kind === 'full') throw new StorError('NO_SPACE', 'no space left');
          if (writes > 10) stopper.abort();
          await session.write(offset, bytes);
        };
        return { ...session, write };
      },
    });
    t.not(exitCode, 0);
    t.same(
      cluster.volumes.map(({ metadata }) => metadata.name),
      ['db'],
    );
  }
});

t.test('a volume that cannot be deleted is named', async (t) => {
  const { bench, cluster } = await withVolume();
  const { open } = cluster;
  const { exitCode, stderr } = await bench(
    ['db', '--io', 'flush', '--seconds', '0.05', '--size', '2MiB'],
    {
      openApi: (options) => ({
        ...open(options),
        deleteVolume: () => Promise.reject(new StorError('UNAVAILABLE', 'no quorum')),
      }),
    },
  );
  t.not(exitCode, 0);
  t.match(stderr, /still there: storctl volume rm bench-[0-9a-f]{8} --keep 0 -y/);
});

t.test('bad input reaches no node', async (t) => {
  const { bench, cluster } = await withVolume();
  const before = cluster.calls.length;
  for (const [argv, message] of [
    [['db', '--seconds', '0'], /more than 0 and at most 600/],
    [['db', '--seconds', 'soon'], /more than 0/],
    [['db', '--seconds', '601'], /at most 600/],
    [['db', '--size', '4KiB', '--io', 'write'], /at least 1MiB/],
    [['db', '--io', 'erase'], /erase/],
    [['db@monday', '--io', 'all'], /cannot be written/],
  ] as const) {
    const { exitCode, stderr } = await bench([...argv]);
    t.equal(exitCode, 2);
    t.match(stderr, message);
  }
  t.equal(cluster.calls.length, before);
});

t.test('the first error ends a load, after the last request', async (t) => {
  const device = new MemoryExport(mib);
  const session = device.session();
  let reads = 0;
  const failing = {
    ...session,
    read: async (offset: number, length: number) => {
      const bytes = await session.read(offset, length);
      if ((reads += 1) === 40) throw new StorError('DISK_FAILED', 'the disk is broken');
      return bytes;
    },
  };
  await t.rejects(
    runLoad({
      ...{ session: failing, durationMs: 1e9, content: Buffer.alloc(4096), onProgress: () => {} },
      shape: { name: 'x', kind: 'read', order: 'random', blockBytes: 4096, depth: 8 },
      ...{ clock: tickingClock(), random: Math.random, signal: new AbortController().signal },
    }),
    { code: 'DISK_FAILED' },
  );
  t.equal(device.inFlight, 0);
});

t.test('every offset is inside, on a boundary, and a sequence comes round', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 40 }),
      fc.constantFrom('random', 'sequential'),
      fc.constantFrom('read', 'write', 'flush'),
      async (blocks, order, kind) => {
        const device = new MemoryExport(blocks * 4096 + 512);
        const seen: number[] = [];
        const inner = device.session();
        const session = {
          ...inner,
          read: (offset: number, length: number) => (seen.push(offset), inner.read(offset, length)),
          write: (offset: number, bytes: Uint8Array) => (
            seen.push(offset),
            inner.write(offset, bytes)
          ),
        };
        const { requests } = await runLoad({
          ...{ session, durationMs: 10, content: Buffer.alloc(4096), onProgress: () => {} },
          shape: { name: 'x', kind, order, blockBytes: 4096, depth: 2 },
          ...{ clock: tickingClock(), random: Math.random, signal: new AbortController().signal },
        });
        const inside = seen.every((offset) => offset % 4096 === 0 && offset / 4096 < blocks);
        const inOrder = seen.every((offset, index) => offset === (index % blocks) * 4096);
        const flushes = kind === 'flush' ? requests : 0;
        return (
          inside &&
          (order === 'random' || inOrder) &&
          device.counts.flush === flushes &&
          requests === seen.length
        );
      },
    ),
    { numRuns: 40 },
  );
});
