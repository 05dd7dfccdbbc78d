import { createHash } from 'node:crypto';
import { readFileSync, readdirSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import type { StorctlIo } from '../src/index.ts';
import { FakeCluster } from './support/fake-cluster.ts';
import { MemoryExport, memoryNbd } from './support/memory-nbd.ts';
import { run } from './support/run.ts';

const mib = 2 ** 20;
const uri = 'nbd://127.0.0.1:17113/db';

async function withVolume(sizeBytes: number) {
  const cluster = new FakeCluster();
  await run(cluster, ['volume', 'create', 'db', '--size', String(sizeBytes)]);
  const device = new MemoryExport(cluster.volume('db').spec.sizeBytes);
  const exports = new Map([[uri, device]]);
  const storctl = (cwd: string, argv: string[], io: Partial<StorctlIo> = {}) =>
    run(cluster, ['volume', ...argv], { cwd, openNbd: memoryNbd(exports), ...io });
  return { cluster, device, exports, storctl };
}

/** Zeros with data in `spots`, as disk images are. */
function image(bytes: number, spots: [number, number][], seed: number): Buffer {
  const content = Buffer.alloc(bytes);
  for (const [at, length] of spots) {
    const end = Math.min(at + length, bytes);
    for (let i = at; i < end; i++) content[i] = (Math.imul(i + seed, 2654435761) >>> 24) | 1;
  }
  return content;
}

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

t.test('an image comes back as it went in, whatever the volume held before', async (t) => {
  const dir = t.testdir({});
  const spot = fc.tuple(fc.nat(5 * mib), fc.integer({ min: 1, max: 300_000 }));
  const content = fc.record({
    bytes: fc.integer({ min: 0, max: 5 * mib }),
    spots: fc.array(spot, { maxLength: 6 }),
    dirty: fc.boolean(),
    maxExtents: fc.integer({ min: 1, max: 5 }),
  });
  let count = 0;
  await fc.assert(
    fc.asyncProperty(content, async ({ bytes, spots, dirty, maxExtents }) => {
      count += 1;
      const { device, storctl } = await withVolume(5 * mib);
      device.maxExtents = maxExtents;
      if (dirty) await device.session().write(0, Buffer.alloc(5 * mib, 0xee));
      const file = image(bytes, spots, count);
      writeFileSync(join(dir, 'in.img'), file);
      const imported = await storctl(dir, ['import', 'db', 'in.img', '--sha256', '-o', 'json']);
      if (imported.exitCode !== 0) throw new Error(imported.stderr);
      const said = JSON.parse(imported.stdout) as Record<string, unknown>;
      const exported = await storctl(dir, [
        'export',
        'db',
        'out.img',
        '--force',
        '--sha256',
        '-o',
        'json',
      ]);
      if (exported.exitCode !== 0) throw new Error(exported.stderr);
      const out = readFileSync(join(dir, 'out.img'));
      const tail = Buffer.alloc(5 * mib - bytes, dirty ? 0xee : 0);
      const wanted = Buffer.concat([file, tail]);
      const facts = JSON.parse(exported.stdout) as Record<string, unknown>;
      return (
        out.equals(wanted) &&
        device.bytes.equals(wanted) &&
        said['sha256'] === sha256(file) &&
        facts['sha256'] === sha256(wanted) &&
        device.dirty === 0 &&
        device.inFlight === 0 &&
        device.counts.closed === 2
      );
    }),
    { numRuns: 25 },
  );
  t.same(readdirSync(dir).sort(), ['in.img', 'out.img'], 'no temporary file stays');
});

t.test('zeros are neither sent nor read as data, and requests overlap', async (t) => {
  const dir = t.testdir({});
  const { device, storctl } = await withVolume(128 * mib);
  const file = image(128 * mib, [[64 * mib, 20 * mib]], 1);
  writeFileSync(join(dir, 'in.img'), file);
  device.holdUntilInFlight(16);
  const imported = await storctl(dir, ['import', 'db', 'in.img']);
  t.match(
    imported.stdout,
    /^imported in.img into volume db: 128MiB \(20MiB data, 108MiB zeros\) in /,
  );
  t.equal(device.counts.write, 20);
  t.equal(device.counts.writeZeroes, 2 + 2, '64 MiB before and 44 MiB behind, at most 32 MiB each');
  t.equal(device.maxInFlight, 16);
  t.equal(device.counts.flush, 1);
  const exported = await storctl(dir, ['export', 'db', 'out.img']);
  t.match(
    exported.stdout,
    /^exported volume db to out.img: 128MiB \(20MiB data, 108MiB zeros\) in /,
  );
  t.equal(device.readBytes, 20 * mib);
  const found = statSync(join(dir, 'out.img'));
  t.equal(found.size, 128 * mib);
  t.ok(found.blocks * 512 < 24 * mib, 'the file is sparse');
  t.ok(readFileSync(join(dir, 'out.img')).equals(file));
});

t.test('import refuses what cannot work before it writes', async (t) => {
  const dir = t.testdir({ 'large.img': Buffer.alloc(2 * mib), folder: {} });
  const { device, storctl } = await withVolume(mib);
  const large = await storctl(dir, ['import', 'db', 'large.img']);
  t.equal(large.exitCode, 5);
  t.match(large.stderr, /large.img has 2MiB .* does not fit into volume db of 1MiB/);
  t.equal((await storctl(dir, ['import', 'db', 'none.img'])).exitCode, 3);
  const folder = await storctl(dir, ['import', 'db', 'folder']);
  t.same([folder.exitCode, folder.stderr.includes('not a regular file')], [2, true]);
  t.equal((await storctl(dir, ['import', 'dc', 'large.img'])).exitCode, 3);
  t.same(device.counts, { read: 0, write: 0, writeZeroes: 0, flush: 0, blockStatus: 0, closed: 0 });
});

t.test('a failed write ends the import with its error, and without FLUSH', async (t) => {
  const dir = t.testdir({ 'in.img': image(40 * mib, [[0, 40 * mib]], 3) });
  const { device, storctl } = await withVolume(40 * mib);
  device.failWriteAt = 5 * mib;
  const { exitCode, stderr, stdout } = await storctl(dir, ['import', 'db', 'in.img']);
  t.same([exitCode, stderr, stdout], [5, 'error: no space left in the pool\n', '']);
  t.same([device.inFlight, device.counts.flush, device.counts.closed], [0, 0, 1]);
});

t.test('a file that becomes shorter meanwhile is an error', async (t) => {
  const dir = t.testdir({ 'in.img': image(3 * mib, [[0, 3 * mib]], 3) });
  const { storctl, device } = await withVolume(3 * mib);
  const openNbd = async () => {
    truncateSync(join(dir, 'in.img'), mib);
    return device.session();
  };
  const { exitCode, stderr } = await storctl(dir, ['import', 'db', 'in.img'], { openNbd });
  t.equal(exitCode, 8);
  t.match(stderr, /became shorter/);
});

t.test('export never replaces a file unasked and leaves nothing when it fails', async (t) => {
  const dir = t.testdir({ 'out.img': 'precious' });
  const { device, storctl } = await withVolume(mib);
  const refused = await storctl(dir, ['export', 'db', 'out.img']);
  t.equal(refused.exitCode, 4);
  t.match(refused.stderr, /out.img exists already.*--force/);
  const broken = device.session();
  broken.blockStatus = () => Promise.reject(new Error('line is cut'));
  const openNbd = async () => broken;
  t.equal((await storctl(dir, ['export', 'db', 'new.img'], { openNbd })).exitCode, 1);
  t.equal((await storctl(dir, ['export', 'db', 'out.img', '--force'], { openNbd })).exitCode, 1);
  t.equal(readFileSync(join(dir, 'out.img'), 'utf8'), 'precious');
  t.same(readdirSync(dir), ['out.img']);
  t.equal((await storctl(dir, ['export', 'db', 'none/x.img'])).exitCode, 3);
});

t.test('Ctrl-C removes the half-made file', async (t) => {
  const dir = t.testdir({});
  const { device, storctl } = await withVolume(4 * mib);
  const controller = new AbortController();
  const session = device.session();
  const blockStatus = session.blockStatus;
  session.blockStatus = (offset, length) => {
    controller.abort();
    return blockStatus(offset, length);
  };
  await session.write(0, Buffer.alloc(mib, 1));
  const openNbd = async () => session;
  const { exitCode } = await storctl(dir, ['export', 'db', 'x.img'], {
    openNbd,
    signal: controller.signal,
  });
  t.equal(exitCode, 130);
  t.same(readdirSync(dir), []);
});

t.test('a dead primary is no obstacle: another node serves the volume', async (t) => {
  const dir = t.testdir({ 'in.img': image(mib, [[0, mib]], 3) });
  const { cluster, device, exports, storctl } = await withVolume(mib);
  exports.delete(uri);
  exports.set('nbd://127.0.0.1:17313/db', device);
  const node = cluster.nodes[1];
  if (node) node.status.state = 'down';
  t.equal((await storctl(dir, ['import', 'db', 'in.img'])).exitCode, 0);
  t.equal(device.counts.flush, 1);
  exports.clear();
  const { exitCode, stderr } = await storctl(dir, ['import', 'db', 'in.img']);
  t.equal(exitCode, 9);
  t.match(
    stderr,
    /cannot be reached over NBD: nbd:\/\/127.0.0.1:17113\/db: connection refused; nbd:\/\/127.0.0.1:17313/,
  );
  t.notMatch(stderr, /17213/, 'a node that is down is not asked');
});

t.test('an export of another size is not touched', async (t) => {
  const dir = t.testdir({ 'in.img': image(mib, [[0, mib]], 3) });
  const { exports, storctl } = await withVolume(2 * mib);
  const other = new MemoryExport(mib);
  exports.set(uri, other);
  const { exitCode, stderr } = await storctl(dir, ['import', 'db', 'in.img']);
  t.equal(exitCode, 1);
  t.match(stderr, /has 1048576 bytes instead of 2097152/);
  t.equal(other.counts.write, 0);
});

t.test('progress goes from nothing to all on a terminal only', async (t) => {
  const dir = t.testdir({ 'in.img': image(3 * mib, [[mib, mib]], 3) });
  const { storctl } = await withVolume(3 * mib);
  const bars: { label: string; total: number; seen: number[]; stopped: boolean }[] = [];
  const progress = (label: string, total: number) => {
    const bar = { label, total, seen: [] as number[], stopped: false };
    bars.push(bar);
    return {
      update: (bytes: number) => void bar.seen.push(bytes),
      stop: () => void (bar.stopped = true),
    };
  };
  await storctl(dir, ['import', 'db', 'in.img'], { progress });
  await storctl(dir, ['import', 'db', 'in.img', '-q'], { progress, isTty: true });
  t.same(bars, []);
  await storctl(dir, ['import', 'db', 'in.img'], { progress, isTty: true });
  await storctl(dir, ['export', 'db', 'out.img'], { progress, isTty: true });
  t.same(
    bars.map(({ label, total, stopped, seen }) => [label, total, stopped, seen.at(-1)]),
    [
      ['import db', 3 * mib, true, 3 * mib],
      ['export db', 3 * mib, true, 3 * mib],
    ],
  );
});

t.test('a snapshot is exported as it is, and only when it is ready', async (t) => {
  const dir = t.testdir({});
  const { cluster, storctl } = await withVolume(5 * mib);
  t.equal((await run(cluster, ['snapshot', 'create', 'db@monday'])).exitCode, 0);
  const device = new MemoryExport(5 * mib);
  await device.session().write(4096, Buffer.alloc(70_000, 7));
  const { nodes } = cluster;
  const exports = new Map(
    nodes.map(({ status }) => [`nbd://${status.addresses.nbd[0]}/db@monday`, device]),
  );
  const openNbd = memoryNbd(exports);
  const done = await storctl(dir, ['export', 'db@monday', 'out.img'], { openNbd });
  t.equal(done.exitCode, 0, done.stderr);
  t.match(done.stdout, /^exported snapshot db@monday to out.img: 5MiB/);
  t.ok(readFileSync(join(dir, 'out.img')).equals(device.bytes));
  const absent = await storctl(dir, ['export', 'db@never', 'no.img'], { openNbd });
  t.not(absent.exitCode, 0);
  t.match(absent.stderr, /db@never/);
  const [snapshot] = cluster.snapshots;
  if (snapshot) snapshot.status.state = 'creating';
  const early = await storctl(dir, ['export', 'db@monday', 'no.img'], { openNbd });
  t.match(early.stderr, /snapshot db@monday is not ready: creating/);
  t.same(readdirSync(dir), ['out.img'], 'nothing is left');
});
