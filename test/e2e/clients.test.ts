// The clients that people use, against real agents: each is Debian's own package.
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { mustRun, runCommand } from '../../benchmarks/src/harness/run-command.ts';
import { runFio } from '../../benchmarks/src/fio/fio.ts';
import { startCluster } from '../support/cluster.ts';
import { needs } from '../support/needs.ts';

const MiB = 1024 * 1024;

t.test('real clients', async (t) => {
  const cluster = await startCluster(t);
  const sizeBytes = 64 * MiB;
  const size = String(sizeBytes);
  await cluster.must('volume', 'create', 'db', '--size', size, '--replicas', '3');
  const dir = t.testdir();
  const image = join(dir, 'disk.img');
  // Data, a hole, data: so that sparse copies have something to skip.
  writeFileSync(
    image,
    Buffer.concat([randomBytes(8 * MiB), Buffer.alloc(16 * MiB), randomBytes(40 * MiB)]),
  );
  const uri = await cluster.must('volume', 'uri', 'db');
  t.match(uri, /^nbd:\/\/127\.0\.0\.1:\d+\/db$/);

  await t.test('nbdinfo', async (t) => {
    if (!needs(t, 'nbdinfo', 'libnbd-bin')) return;
    const facts = JSON.parse((await mustRun('nbdinfo', ['--json', uri])).stdout);
    const [db] = facts.exports;
    t.equal(db['export-size'], sizeBytes);
    t.match(db, {
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      is_read_only: false,
    });
    t.match(db.contexts, ['base:allocation']);
    for (const index of [0, 1, 2]) {
      const list = await mustRun('nbdinfo', ['--list', '--json', cluster.tcpUri(index, '')]);
      const { exports } = JSON.parse(list.stdout) as { exports: Record<string, string>[] };
      const names = exports.map((found) => found['export-name']);
      t.same(names, ['db'], `listed by n${index + 1}`);
    }
    const unknown = await runCommand('nbdinfo', [cluster.tcpUri(1, 'absent')]);
    t.not(unknown.code, 0);
    t.match(unknown.stderr, /absent/);
  });

  await t.test('nbdcopy in and out', async (t) => {
    if (!needs(t, 'nbdcopy', 'libnbd-bin')) return;
    await mustRun('nbdcopy', [image, uri]);
    const out = join(dir, 'nbdcopy.img');
    await mustRun('nbdcopy', [uri, out]);
    t.ok(readFileSync(out).equals(readFileSync(image)), 'the same bytes came back');
  });

  await t.test('storctl volume import and export', async (t) => {
    await cluster.must('volume', 'import', 'db', image);
    const few = ['--seconds', '0.2', '--size', '8MiB', '-o', 'json'];
    const printed = await cluster.must('volume', 'bench', 'db', '--io', 'all', ...few);
    const measured = JSON.parse(printed) as { iops: number }[];
    t.equal(measured.length, 7, 'measured, and the comparison below says that it was only read');
    t.ok(measured.every(({ iops }) => iops > 0));
    t.same((await cluster.must('volume', 'ls', '-o', 'name')).split('\n'), ['db']);
    const out = join(dir, 'export.img');
    await cluster.must('volume', 'export', 'db', out);
    const hash = (path: string): string =>
      createHash('sha256').update(readFileSync(path)).digest('hex');
    t.equal(hash(out), hash(image));
  });

  await t.test('qemu-img convert and compare', async (t) => {
    if (!needs(t, 'qemu-img', 'qemu-utils')) return;
    await mustRun('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', image, uri]);
    await mustRun('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri]);
    const out = join(dir, 'qemu.qcow2');
    await mustRun('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', uri, out]);
    await mustRun('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', image, out]);
    // Negative control: a difference is seen.
    await mustRun('qemu-io', ['-f', 'raw', '-c', 'write -P 0x5a 12345 512', uri]);
    const differs = await runCommand('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri]);
    t.equal(differs.code, 1);
  });

  await t.test('qemu-io: unaligned requests, zeros, discard, flush', async (t) => {
    if (!needs(t, 'qemu-io', 'qemu-utils')) return;
    const commands = [
      'write -P 0xaa 0 1M',
      'write -P 0xbb 512 512',
      'read -P 0xaa 0 512',
      'read -P 0xbb 512 512',
      'read -P 0xaa 1024 1023k',
      'write -z 64k 128k',
      'read -P 0 64k 128k',
      'write -f -P 0xcc 4095 4098',
      'read -P 0xcc 4095 4098',
      'discard 256k 256k',
      'flush',
      'read -P 0xaa 512k 512k',
    ];
    const result = await mustRun('qemu-io', [
      '-f',
      'raw',
      ...commands.flatMap((c) => ['-c', c]),
      uri,
    ]);
    t.notMatch(result.stdout, /failed|error/i);
  });

  await t.test('fio verifies what it wrote', async (t) => {
    if (!needs(t, 'fio', 'fio')) return;
    for (const through of [uri, cluster.unixUri(0, 'db')]) {
      const result = await runFio({
        uri: through,
        dir,
        options: {
          rw: 'randwrite',
          bsrange: '512-64k',
          blockalign: '512',
          iodepth: '32',
          size: '32m',
          verify: 'crc32c',
          verify_fatal: '1',
          randseed: through === uri ? '1' : '2',
        },
      });
      t.equal(result.error, 0, result.command.stderr);
      t.ok(result.read.ios > 0, 'it has read back');
      // The volume stays with the node that has it while a client is connected; now it moves.
      await cluster.must('volume', 'detach', 'db');
    }
  });
});
