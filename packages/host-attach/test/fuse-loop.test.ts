// The FUSE server and loop devices with the kernel of this host, and a volume in memory.
import { existsSync, mkdtempSync, readFileSync, rmdirSync } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger } from '@stor/runtime';
import t from 'tap';
import { FuseDisk } from '../src/core/fuse-disk.ts';
import { syncBlockDevice, usersOf } from '../src/device/block-device-use.ts';
import type { DeviceVolume } from '../src/device/device-volume.ts';
import { FuseDevice } from '../src/device/fuse-channel.ts';
import { mountFuse, removeMountPoint, unmountAll } from '../src/device/fuse-mount.ts';
import { FuseServer } from '../src/device/fuse-server.ts';
import { attachLoop, detachLoop, growLoop, loopDevicesOf } from '../src/device/loop-device.ts';

const MiB = 1024 * 1024;
const blockBytes = 4096;

class MemoryVolume implements DeviceVolume {
  readonly bytes = Buffer.alloc(8 * MiB);
  flushes = 0;
  /** bytes that were answered when the last flush came */
  writes = 0;
  largest = 0;

  async read(offset: number, target: Buffer): Promise<void> {
    this.largest = Math.max(this.largest, target.length);
    this.bytes.copy(target, 0, offset, offset + target.length);
  }

  async write(offset: number, bytes: Buffer): Promise<void> {
    bytes.copy(this.bytes, offset);
    this.writes += 1;
    this.largest = Math.max(this.largest, bytes.length);
  }

  async zero(offset: number, length: number): Promise<void> {
    this.bytes.fill(0, offset, offset + length);
  }

  async flush(): Promise<void> {
    this.flushes += 1;
  }
}

/** Why not; null: here it can be tried. */
function missing(): string | null {
  if (process.getuid?.() !== 0) return 'devices are made by root only';
  const file = ['/dev/fuse', '/dev/loop-control'].find((path) => !existsSync(path));
  return file === undefined ? null : `this host has no ${file}`;
}

t.test('a volume in memory is a block device', async (t) => {
  const why = missing();
  if (why !== null) {
    t.plan(0, `SKIPPED: ${why}`);
    return;
  }
  const { signal } = new AbortController();
  const target = mkdtempSync(join(tmpdir(), 'stor-fuse-'));
  const file = join(target, 'disk');
  const volume = new MemoryVolume();
  const disk = new FuseDisk({ sizeBytes: 4 * MiB, readOnly: false });
  const fuse = new FuseDevice();
  const server = new FuseServer({ channel: fuse, disk, volume, logger: silentLogger });
  let path = '';
  t.teardown(async () => {
    if (path !== '') await detachLoop(path, file);
    await unmountAll(target, { lazy: true });
    await server.ended;
    fuse.close();
    if (existsSync(target)) rmdirSync(target);
  });
  await mountFuse(fuse.fd, { source: 'stor-test', target }, signal);
  server.start();
  t.equal((await stat(file)).size, 4 * MiB);
  const loop = await attachLoop(file, { readOnly: false }, signal);
  path = loop.path;
  t.equal(loop.directIo, true);
  t.strictSame(loopDevicesOf(file), [path]);
  t.strictSame(await usersOf(path), []);

  const device = await open(path, 'r+');
  t.match(await usersOf(path), [], 'this process does not count');
  const bytes = Buffer.alloc(3 * MiB, 0x5a);
  await device.write(bytes, 0, bytes.length, blockBytes);
  await device.sync();
  t.ok(volume.bytes.subarray(blockBytes, blockBytes + bytes.length).equals(bytes));
  t.equal(volume.bytes[0], 0);
  t.ok(volume.flushes > 0, 'sync is a flush');
  t.ok(volume.largest > 128 * 1024, 'in large requests');
  const back = Buffer.alloc(bytes.length);
  await device.read(back, 0, back.length, blockBytes);
  t.ok(back.equals(bytes));
  await device.close();
  const flushes = volume.flushes;
  await syncBlockDevice(path);
  t.ok(volume.flushes > flushes);

  disk.grow(8 * MiB);
  await stat(file);
  await growLoop(path, 8 * MiB);
  const grown = await open(path, 'r+');
  volume.bytes.fill(7, 7 * MiB);
  const end = Buffer.alloc(blockBytes);
  await grown.read(end, 0, blockBytes, 8 * MiB - blockBytes);
  t.ok(end.every((byte) => byte === 7));
  await grown.close();

  t.equal(await detachLoop(path, file), true);
  t.equal(await detachLoop(path, file), true, 'again');
  await unmountAll(target, { lazy: false });
  await server.ended;
  removeMountPoint(target);
  removeMountPoint(target);
  t.notOk(readFileSync('/proc/self/mountinfo', 'utf8').includes(target));
});
