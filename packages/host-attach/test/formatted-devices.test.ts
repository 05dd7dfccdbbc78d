// What is done to block devices with real tools, on files of this host.
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { systemHostTools as tools } from '../src/tools/system-host-tools.ts';
import { findTool, toolPackages } from '../src/tools/run-tool.ts';

const { signal } = new AbortController();
const deviceBytes = 320 * 1024 * 1024;

/** Why not; null: here it can be tried. */
function missing(): string | null {
  if (process.getuid?.() !== 0) return 'devices are made by root only';
  if (!existsSync('/dev/loop-control')) return 'this host has no /dev/loop-control';
  const needed = ['losetup', 'blkdiscard', 'mkfs.ext4', 'mkfs.xfs'] as const;
  const tool = needed.find((each) => findTool(each) === null);
  return tool === undefined ? null : `${tool} is missing: apt-get install ${toolPackages[tool]}`;
}

const run = (name: string, ...args: string[]): string =>
  execFileSync(name, args, { encoding: 'utf8' }).trim();

function device(t: Test): { path: string; folder: string; file: string } {
  const folder = mkdtempSync(join(tmpdir(), 'stor-format-'));
  const file = join(folder, 'file');
  writeFileSync(file, '');
  truncateSync(file, deviceBytes);
  const path = run('losetup', '--find', '--show', file);
  t.teardown(() => {
    if (backingFile(path) === file) run('losetup', '--detach', path);
    rmSync(folder, { recursive: true });
  });
  return { path, folder, file };
}

function backingFile(path: string): string {
  const attribute = `/sys/block/${path.slice('/dev/'.length)}/loop/backing_file`;
  return existsSync(attribute) ? readFileSync(attribute, 'utf8').trim() : '';
}

const why = missing();
if (why !== null) {
  t.comment(`SKIPPED: ${why}`);
  if (process.env['CI'] === 'true') t.fail(why);
} else {
  t.test('a device that somebody has mounted meanwhile keeps its data', async (t) => {
    const { path, folder } = device(t);
    const target = join(folder, 'mnt');
    await tools.makeTarget(target);
    await tools.makeFileSystem(path, 'ext4', [], signal);
    await tools.mount(
      { device: path, target, fileSystem: 'ext4', options: [], readOnly: false },
      signal,
    );
    t.teardown(() => run('umount', target));
    writeFileSync(join(target, 'precious'), 'data');
    run('sync', '-f', target);
    for (const fileSystem of ['ext4', 'xfs'] as const) {
      await t.rejects(tools.makeFileSystem(path, fileSystem, [], signal), { code: 'IN_USE' });
    }
    await t.rejects(tools.discard(path, signal), { message: /blkdiscard/ });
    await tools.unmount(target, { lazy: false }, signal);
    await tools.check(path, 'ext4', signal);
    await tools.mount(
      { device: path, target, fileSystem: 'ext4', options: [], readOnly: false },
      signal,
    );
    t.equal(readFileSync(join(target, 'precious'), 'utf8'), 'data');
  });

  t.test('a file system that somebody has made meanwhile is told as such', async (t) => {
    const { path } = device(t);
    run('mkfs.ext4', '-q', path);
    await t.rejects(tools.makeFileSystem(path, 'xfs', [], signal), { code: 'IN_USE' });
    t.match(await tools.probe(path, signal), { fileSystem: 'ext4' });
  });

  t.test('arguments never make another file of the device', async (t) => {
    const { path, folder } = device(t);
    const other = join(folder, 'other');
    writeFileSync(other, 'data');
    truncateSync(other, deviceBytes);
    const options = [other, '-L'];
    await t.rejects(tools.makeFileSystem(path, 'ext4', options, signal));
    await t.rejects(tools.makeFileSystem(path, 'xfs', options, signal));
    t.equal(readFileSync(other).toString('utf8', 0, 4), 'data');
    t.match(await tools.probe(other, signal), { fileSystem: null, signatures: [] });
  });

  t.test('a device that is held keeps its name, whoever takes it away', async (t) => {
    const { path, file } = device(t);
    const release = await tools.hold(path);
    run('losetup', '--detach', path);
    t.equal(backingFile(path), file);
    t.not(run('losetup', '--find'), path);
    // nobody who is given the whole device is disturbed
    await tools.makeFileSystem(path, 'ext4', [], signal);
    await release();
  });
}
