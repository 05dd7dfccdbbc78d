import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import t from 'tap';

import { systemFiles, threadReadBytes } from '../src/index.ts';

/** `statfs` types of file systems on disks whose reads are counted: ext4, XFS */
const countedTypes = [0xef53, 0x58465342];

function dropPages(file: string): void {
  const from = ['conv=notrunc,fdatasync', 'oflag=nocache', 'count=0', 'status=none'];
  execFileSync('dd', ['if=/dev/null', `of=${file}`, ...from]);
}

t.test('what comes from the page cache does not count, what the disk had to give does', (t) => {
  if (threadReadBytes() === null) {
    t.comment('skipped: this kernel does not count the reads of a thread');
    t.end();
    return;
  }
  const name = path.join(t.testdir(), 'data');
  fs.writeFileSync(name, Buffer.alloc(1024 * 1024, 7));
  const file = systemFiles.open(name);
  t.teardown(() => {
    file.close();
  });
  const target = Buffer.alloc(4096);
  file.readSync(target, 0, 4096, 0);
  const before = threadReadBytes();
  for (let at = 0; at < 1024 * 1024; at += 4096) file.readSync(target, 0, 4096, at);
  t.equal(threadReadBytes(), before, 'cached');
  if (!countedTypes.includes(fs.statfsSync(path.dirname(name)).type)) {
    t.comment('skipped: how a read from the disk counts, because this is neither ext4 nor XFS');
    t.end();
    return;
  }
  let fetched = 0;
  // the kernel may keep a page that is in use just then
  for (let i = 0; i < 10 && fetched === 0; i++) {
    dropPages(name);
    const from = threadReadBytes() ?? 0;
    file.readSync(target, 0, 4096, 512 * 1024);
    fetched = (threadReadBytes() ?? 0) - from;
  }
  t.ok(fetched >= 4096, 'dropped from the cache');
  t.end();
});
