// Another program has filled the file system of an agent's data folder to the last byte while the agent
// was down: it starts, and serves reads and overwrites.
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { LoopDisk } from '../../benchmarks/src/harness/loop-disk.ts';
import { mustRun, runCommand } from '../../benchmarks/src/harness/run-command.ts';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { NbdClient, NbdError } from '../../packages/nbd-client-js/src/index.ts';
import { startCluster } from '../support/cluster.ts';
import { needs, needsLoopDevices } from '../support/needs.ts';

const MiB = 1024 * 1024;
const sizeBytes = 64 * MiB;
const writtenBytes = 8 * MiB;

const cases = [
  { kind: 'ext4', make: ['mkfs.ext4', '-q', '-m', '0'] },
  { kind: 'xfs', make: ['mkfs.xfs', '-q', '-f'] },
];

for (const { kind, make } of cases) {
  t.test(`an agent starts on a full ${kind}`, async (t) => {
    if (!needsLoopDevices(t) || !needs(t, 'mkfs.ext4', 'e2fsprogs')) return;
    const dir = mkdtempSync(join(tmpdir(), 'stor-full-'));
    t.teardown(() => {
      rmSync(dir, { recursive: true, force: true });
    });
    const small = join(dir, 'small');
    mkdirSync(small);
    const disk = await LoopDisk.create({ dir, name: 'small', sizeBytes: 512 * MiB });
    t.teardown(() => disk.close());
    const [program = '', ...args] = make;
    await mustRun(program, [...args, disk.device]);
    await mustRun('mount', [disk.device, small]);
    t.teardown(() => mustRun('umount', ['-l', small]));
    const dataDir = join(small, 'data');
    const cluster = await startCluster(t, {
      dataDirOf: (index) => (index === 0 ? dataDir : undefined),
    });
    const agent = cluster.agent(0);
    const size = ['--size', String(sizeBytes)];
    await cluster.must('volume', 'create', 'db', ...size, '--failure-mode', 'alwayson');
    const before = randomBytes(writtenBytes);
    const writer = await NbdClient.connect({ uri: cluster.tcpUri(0, 'db') });
    await writer.write(0, before);
    await writer.flush();
    await writer.disconnect();
    await cluster.must('volume', 'detach', 'db');
    await agent.kill9();
    const hog = join(small, 'hog');
    await runCommand('dd', ['if=/dev/zero', `of=${hog}`, 'bs=1M']);
    await runCommand('dd', ['if=/dev/zero', `of=${hog}-2`, 'bs=512']);
    t.comment(`${statfsSync(small).bavail} blocks are free`);

    agent.start();
    await agent.waitReady();
    await cluster.waitHealth('db', 'healthy');
    const client = await NbdClient.connect({ uri: cluster.tcpUri(0, 'db') });
    t.ok((await client.read(0, writtenBytes)).equals(before), 'reads');
    const bytes = randomBytes(MiB);
    await client.write(MiB, bytes);
    await client.flush();
    t.ok((await client.read(MiB, MiB)).equals(bytes), 'overwrites');
    const refused: unknown = await client.write(32 * MiB, bytes).then(
      () => null,
      (error: unknown) => error,
    );
    t.ok(refused instanceof NbdError && refused.errnoName === 'ENOSPC', String(refused));
    t.match(await cluster.must('volume', 'explain', 'db'), /no space on disk .* of node n1/);
    rmSync(hog);
    rmSync(`${hog}-2`, { force: true });
    await waitFor('new chunks to be taken', async () => {
      await client.write(32 * MiB, bytes);
      return true;
    });
    await client.disconnect();
    await cluster.waitHealth('db', 'healthy');
  });
}
