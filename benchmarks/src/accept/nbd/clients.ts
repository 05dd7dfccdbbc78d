import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, openSync, readFileSync, readSync, closeSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { NbdClient } from 'nbd-client-js';
import { runFio } from '../../fio/fio.ts';
import type { TestCluster } from '../../harness/test-cluster.ts';
import { waitFor } from '../../harness/wait-for.ts';
import { expect, line, onCluster, output, refusal, type NbdStage } from './stage.ts';

const MiB = 1024 * 1024;
const sizeBytes = 64 * MiB;

interface Desk {
  stage: NbdStage;
  cluster: TestCluster;
  tcp: string;
  unix: string;
  image: string;
  bytes: Buffer;
}

/** Debian's clients against three real agents, a volume of three replicas and its snapshots. */
export async function clients(stage: NbdStage): Promise<void> {
  await onCluster(stage, { nodes: 3 }, async (cluster) => {
    await cluster.must('volume', 'create', 'db', '--size', String(sizeBytes), '--replicas', '3');
    const image = join(stage.dir, 'disk.img');
    const bytes = Buffer.concat([
      randomBytes(8 * MiB),
      Buffer.alloc(20 * MiB),
      randomBytes(9 * MiB),
    ]);
    const whole = Buffer.concat([bytes, Buffer.alloc(sizeBytes - bytes.length)]);
    writeFileSync(image, whole);
    const desk: Desk = {
      ...{ stage, cluster, image, bytes: whole },
      tcp: cluster.tcpUri(0, 'db'),
      unix: cluster.unixUri(0, 'db'),
    };
    await libnbd(desk);
    await qemu(desk);
    await others(desk);
    await snapshotsAndSizes(desk);
  });
}

async function libnbd({ stage, cluster, tcp, unix, image, bytes }: Desk): Promise<void> {
  await line(stage, 'nbdinfo', 'structured, every capability', async () => {
    const { exports } = JSON.parse(await output('nbdinfo', '--json', tcp)) as {
      exports: Record<string, unknown>[];
    };
    const can = ['flush', 'fua', 'multi_conn', 'trim', 'zero', 'fast_zero', 'df', 'cache'];
    const missing = can.filter((each) => exports[0]?.[`can_${each}`] !== true);
    expect(missing.length === 0, `can ${missing.join(', ')}`);
    return `${can.length} capabilities, ${(exports[0]?.['contexts'] as string[]).join(', ')}`;
  });
  await line(stage, 'nbdinfo --list, at every node', 'the same exports', async () => {
    const lists = await Promise.all(
      [0, 1, 2].map((index) => output('nbdinfo', '--list', cluster.tcpUri(index, ''))),
    );
    for (const list of lists) expect(/export="db"/.test(list), 'db is listed');
    return `${lists.length} of 3`;
  });
  await line(stage, 'nbdcopy in and out, 4 connections', 'equal bytes, holes stay', async () => {
    const copied = join(stage.dir, 'copied.img');
    await output('nbdcopy', '--connections=4', '--flush', image, tcp);
    await output('nbdcopy', '--connections=4', unix, copied);
    expect(readFileSync(copied).equals(bytes), 'equal bytes');
    const map = JSON.parse(await output('nbdinfo', '--json', '--map', tcp)) as {
      length: number;
      type: number;
    }[];
    const holes = map.filter(({ type }) => type === 3).reduce((sum, { length }) => sum + length, 0);
    expect(holes >= 40 * MiB, `holes of ${holes} bytes`);
    return `${holes / MiB} MiB of holes`;
  });
}

async function qemu({ stage, tcp, unix, image, bytes }: Desk): Promise<void> {
  const raw = ['-f', 'raw'];
  await line(stage, 'qemu-img convert, compare, map', 'equal bytes', async () => {
    await output('qemu-img', 'convert', '-n', ...raw, '-O', 'raw', image, unix);
    await output('qemu-img', 'compare', ...raw, '-F', 'raw', image, tcp);
    const copied = join(stage.dir, 'copied.qcow2');
    await output('qemu-img', 'convert', ...raw, '-O', 'qcow2', tcp, copied);
    await output('qemu-img', 'compare', ...raw, '-F', 'qcow2', image, copied);
    const map = await output('qemu-img', 'map', '--output=json', ...raw, tcp);
    expect(/"data": false/.test(map), 'a hole in the map');
    return 'equal';
  });
  await line(stage, 'qemu-io: unaligned, FUA, zeros, discard, flush', 'no error', async () => {
    const commands = [
      ...['write -P 5 512 512', 'read -P 5 512 512', 'write -f -P 6 1000 3', 'read -P 6 1000 3'],
      ...['aio_write -P 7 40M 2M', 'aio_flush', 'read -P 7 40M 2M', 'write -z -u 40M 64k'],
      ...['write -z 41M 64k', 'read -P 0 40M 64k', 'read -P 0 41M 64k', 'discard 40M 2M', 'flush'],
    ];
    const said = await output('qemu-io', ...raw, ...commands.flatMap((each) => ['-c', each]), tcp);
    expect(!/verification failed|rror/i.test(said), said);
    await output('qemu-img', 'convert', '-n', ...raw, '-O', 'raw', image, unix);
    return `${commands.length} commands`;
  });
  await line(stage, 'simple replies (our client), 1,000 random reads', 'equal bytes', async () => {
    return randomReads(unix, bytes, { structuredReplies: false });
  });
  await line(stage, 'structured replies (our client)', 'equal bytes', async () => {
    return randomReads(tcp, bytes, { extendedHeaders: false });
  });
  await line(stage, 'extended headers (our client)', 'equal bytes', async () => {
    return randomReads(tcp, bytes, {});
  });
}

async function randomReads(
  uri: string,
  bytes: Buffer,
  options: { structuredReplies?: boolean; extendedHeaders?: boolean },
): Promise<string> {
  const client = await NbdClient.connect({ uri, ...options });
  const { structuredReplies = true, extendedHeaders = structuredReplies } = options;
  expect(client.structuredReplies === structuredReplies, 'structured replies as asked');
  expect(client.extendedHeaders === extendedHeaders, 'extended headers as asked');
  let readBytes = 0;
  for (let round = 0; round < 1_000; round += 50) {
    const parts = Array.from({ length: 50 }, async () => {
      const offset = Math.floor(Math.random() * (sizeBytes - 200_000));
      const length = 1 + Math.floor(Math.random() * 200_000);
      const part = await client.read(offset, length);
      expect(part.equals(bytes.subarray(offset, offset + length)), `${length} bytes at ${offset}`);
      readBytes += length;
    });
    await Promise.all(parts);
  }
  await client.disconnect();
  return `${Math.round(readBytes / MiB)} MiB`;
}

async function others({ stage, cluster, tcp, unix, image, bytes }: Desk): Promise<void> {
  await line(stage, 'nbdkit nbd plug-in in between', 'equal bytes', async () => {
    const copied = join(stage.dir, 'nbdkit.img');
    await output('nbdkit', '-U', '-', 'nbd', `uri=${tcp}`, '--run', `nbdcopy "$uri" '${copied}'`);
    expect(readFileSync(copied).equals(bytes), 'equal bytes');
    await output('nbdkit', '-U', '-', 'nbd', `uri=${unix}`, '--run', `nbdcopy '${image}' "$uri"`);
    return 'both ways';
  });
  await line(stage, 'nbdfuse', 'equal bytes', async () => {
    const mount = join(stage.dir, 'fuse');
    mkdirSync(mount);
    const fuse = spawn('nbdfuse', [mount, tcp], { stdio: 'inherit' });
    try {
      await waitFor('the file', () => readFileSync(join('/proc/mounts'), 'utf8').includes(mount));
      const file = openSync(join(mount, 'nbd'), 'r');
      const read = Buffer.alloc(sizeBytes);
      for (let at = 0; at < sizeBytes; at += MiB) readSync(file, read, at, MiB, at);
      closeSync(file);
      expect(read.equals(bytes), 'equal bytes');
    } finally {
      await output('fusermount3', '-u', mount).catch(() => output('umount', mount));
      if (fuse.exitCode === null) await new Promise((resolve) => fuse.once('close', resolve));
    }
    return `${sizeBytes / MiB} MiB read`;
  });
  await line(stage, 'fio nbd engine, 4 jobs (multi-conn), verified', 'no error', async () => {
    await cluster.must('volume', 'create', 'fio', '--size', '64MiB', '--replicas', '3');
    const { error, write } = await runFio({
      uri: cluster.tcpUri(0, 'fio'),
      dir: stage.dir,
      options: {
        ...{ rw: 'randwrite', bsrange: '512-64k', blockalign: '512', iodepth: '16', size: '8m' },
        ...{ numjobs: '4', offset_increment: '16m', verify: 'crc32c', verify_fatal: '1' },
        fsync: '64',
      },
    });
    expect(error === 0, `error ${error}`);
    return `${write.ios} writes`;
  });
}

async function snapshotsAndSizes({ stage, cluster, tcp, bytes }: Desk): Promise<void> {
  await line(stage, 'a snapshot is read-only', 'flag, EPERM, the same bytes', async () => {
    await cluster.must('snapshot', 'create', 'db@then');
    const uri = cluster.tcpUri(1, 'db@then');
    expect(/is_read_only: true/.test(await output('nbdinfo', uri)), 'read-only');
    await refusal('qemu-io', '-f', 'raw', '-c', 'write 0 4k', uri);
    const client = await NbdClient.connect({ uri });
    const code = await client.write(0, Buffer.alloc(512)).then(
      () => 'done',
      (error: { errnoName?: string }) => error.errnoName,
    );
    const copy = await client.read(0, 32 * MiB);
    await client.disconnect();
    expect(code === 'EPERM', `a write is ${code}`);
    expect(copy.equals(bytes.subarray(0, 32 * MiB)), 'the same bytes');
    return 'EPERM';
  });
  await line(stage, 'a resize is seen by who connects again', 'new size', async () => {
    const before = await NbdClient.connect({ uri: tcp });
    await cluster.must('volume', 'resize', 'db', '96MiB');
    const size = (await output('nbdinfo', '--size', tcp)).trim();
    expect(size === String(96 * MiB), `${size} bytes`);
    expect(before.sizeBytes === sizeBytes, 'an older connection keeps its size');
    expect((await before.read(0, 4096)).equals(bytes.subarray(0, 4096)), 'and works');
    await before.disconnect();
    return `${sizeBytes / MiB} to ${Number(size) / MiB} MiB`;
  });
}
