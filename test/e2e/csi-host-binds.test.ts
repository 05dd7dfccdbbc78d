// Bind mounts of the real kernel: on a file system in memory, and on a loop device.
import { execFileSync } from 'node:child_process';
import {
  chmod,
  link,
  lstat,
  mkdir,
  mkdtemp,
  open,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import type { Test } from 'tap';
import { SystemHostBinds } from '../../packages/csi-driver/src/index.ts';
import { needs, needsRoot } from '../support/needs.ts';

const binds = new SystemHostBinds();
const { signal } = new AbortController();

async function folderOf(t: Test): Promise<string> {
  const folder = await binds.real(await mkdtemp(join(tmpdir(), 'stor-binds-')));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** A file system in memory, at a folder of the test. */
async function mounted(t: Test): Promise<{ folder: string; source: string }> {
  const folder = await folderOf(t);
  const source = join(folder, 'stage with a blank');
  await mkdir(source);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'stor-test', source]);
  t.teardown(() => execFileSync('umount', [source]));
  return { folder, source };
}

t.test('places of a folder', async (t) => {
  if (!needsRoot(t)) return;
  const { folder, source } = await mounted(t);
  const writing = join(folder, 'pods/a/mount');
  const reading = join(folder, 'pods/b');
  const order = { source, kind: 'folder' as const, target: writing, readOnly: false };
  t.same(await binds.of(source, 'folder'), []);
  for (let time = 0; time < 2; time++) await binds.bind(order, signal);
  for (let time = 0; time < 2; time++) {
    await binds.bind({ ...order, target: reading, readOnly: true }, signal);
  }
  t.same(
    (await binds.of(source, 'folder')).sort((a, b) => (a.target < b.target ? -1 : 1)),
    [
      { target: writing, readOnly: false },
      { target: reading, readOnly: true },
    ],
    'each one once',
  );
  await writeFile(join(writing, 'file'), 'hello');
  t.equal(await readFile(join(reading, 'file'), 'utf8'), 'hello');
  await t.rejects(writeFile(join(reading, 'other'), ''), { code: 'EROFS' });
  await t.rejects(binds.bind({ ...order, readOnly: true }, signal), { code: 'ALREADY_EXISTS' });
  const other = await mounted(t);
  const foreign = { ...order, source: other.source };
  await t.rejects(binds.bind(foreign, signal), { code: 'ALREADY_EXISTS' });

  const file = await open(join(writing, 'file'));
  await t.rejects(binds.unbind(writing, signal), { code: 'IN_USE' });
  await file.close();
  for (const target of [writing, reading]) {
    for (let time = 0; time < 2; time++) await binds.unbind(target, signal);
    await t.rejects(stat(target), { code: 'ENOENT' }, 'the target is gone');
  }
  t.equal(await readFile(join(source, 'file'), 'utf8'), 'hello');
  t.equal(await binds.isMounted(source), true);
});

t.test('several mounts over each other', async (t) => {
  if (!needsRoot(t)) return;
  const { folder, source } = await mounted(t);
  const target = join(folder, 'target');
  await mkdir(target);
  for (let i = 0; i < 3; i++) execFileSync('mount', ['--bind', source, target]);
  await binds.unbind(target, signal);
  await t.rejects(stat(target), { code: 'ENOENT' });
});

t.test('what is not ours stays', async (t) => {
  const folder = await folderOf(t);
  const full = join(folder, 'full');
  await mkdir(full);
  await writeFile(join(full, 'precious'), 'data');
  await t.rejects(binds.unbind(full, signal), { code: 'FAILED_PRECONDITION' });
  await t.rejects(binds.unbind(join(full, 'precious'), signal), { code: 'FAILED_PRECONDITION' });
  t.equal(await readFile(join(full, 'precious'), 'utf8'), 'data');
  await binds.unbind(join(folder, 'nothing'), signal);
  await binds.unbind(join(full, 'precious/below a file'), signal);
  await symlink(full, join(folder, 'link'));
  t.equal(await binds.real(join(folder, 'link/new/deep')), join(full, 'new/deep'));
  await t.rejects(binds.unbind(join(folder, 'link'), signal), { code: 'FAILED_PRECONDITION' });
});

t.test('places of a device', async (t) => {
  if (!needsRoot(t) || !needs(t, 'losetup', 'mount')) return;
  const folder = await folderOf(t);
  const image = join(folder, 'image');
  await writeFile(image, Buffer.alloc(1024 * 1024));
  const devices: string[] = [];
  for (let i = 0; i < 2; i++) {
    const device = execFileSync('losetup', ['--find', '--show', image], {
      encoding: 'utf8',
    }).trim();
    t.teardown(() => execFileSync('losetup', ['--detach', device]));
    devices.push(device);
  }
  const [source = '', other = ''] = devices;
  const target = join(folder, 'pods/device');
  const order = { source, kind: 'device' as const, target, readOnly: false };
  for (let time = 0; time < 2; time++) await binds.bind(order, signal);
  t.same(
    (await binds.of(source, 'device')).map((each) => each.target),
    [target],
  );
  t.same(await binds.of(other, 'device'), []);
  t.equal((await stat(target)).rdev, (await stat(source)).rdev);
  await t.rejects(binds.bind({ ...order, source: other }, signal), { code: 'ALREADY_EXISTS' });
  await binds.unbind(target, signal);
  await t.rejects(stat(target), { code: 'ENOENT' });
  await writeFile(target, 'a file');
  await t.rejects(binds.bind(order, signal), { code: 'FAILED_PRECONDITION' });
  t.equal(await readFile(target, 'utf8'), 'a file');
});

t.test('a group for all that is below', async (t) => {
  if (!needsRoot(t)) return;
  const { folder, source } = await mounted(t);
  const outside = join(folder, 'outside');
  await writeFile(outside, '');
  await mkdir(join(source, 'deep/er'), { recursive: true });
  await writeFile(join(source, 'deep/er/file'), '');
  await chmod(join(source, 'deep/er/file'), 0o4711);
  await symlink(outside, join(source, 'link'));
  await link(join(source, 'deep/er/file'), join(source, 'same'));
  execFileSync('mkfifo', [join(source, 'pipe')]);
  await binds.setGroup(source, 2_345, signal);
  const modes: [string, number][] = [
    ['', 0o3777],
    ['deep', 0o2775],
    ['deep/er', 0o2775],
    ['deep/er/file', 0o771],
  ];
  for (const [path, mode] of modes) {
    const found = await stat(join(source, path));
    t.equal(found.gid, 2_345, path);
    t.equal(found.mode & 0o7777, mode, path);
  }
  t.equal((await lstat(join(source, 'link'))).gid, 2_345);
  t.equal((await lstat(join(source, 'pipe'))).gid, 2_345);
  t.equal((await stat(outside)).gid, process.getgid?.(), 'no link is followed');
  await writeFile(join(source, 'deep/new'), '');
  t.equal((await stat(join(source, 'deep/new'))).gid, 2_345, 'new files have it too');
  // when the top is right, nothing below is looked at
  await chmod(join(source, 'deep'), 0o700);
  await binds.setGroup(source, 2_345, signal);
  t.equal((await stat(join(source, 'deep'))).mode & 0o7777, 0o700);
  await binds.setGroup(source, 2_346, signal);
  t.equal((await stat(join(source, 'deep'))).mode & 0o7777, 0o2770);
});
