import fs from 'node:fs';
import path from 'node:path';
import t from 'tap';

import { systemFiles } from '../src/index.ts';

t.test('a closed file is never mistaken for the one that has its number now', async (t) => {
  const directory = t.testdir({});
  const closed = systemFiles.create(path.join(directory, 'closed'));
  closed.close();
  closed.close();
  const other = systemFiles.create(path.join(directory, 'other'));
  const bytes = Buffer.from('not for the other file');
  const late = { code: 'EBADF' };
  t.throws(() => {
    closed.writeSync(bytes, 0, bytes.length, 0);
  }, late);
  t.throws(() => closed.readSync(bytes, 0, bytes.length, 0), late);
  t.throws(() => closed.size(), late);
  const answers = await Promise.all([
    new Promise((resolve) => {
      closed.write(bytes, 0, bytes.length, 0, resolve);
    }),
    new Promise((resolve) => {
      closed.read(Buffer.alloc(8), 0, 8, 0, resolve);
    }),
    new Promise((resolve) => {
      closed.datasync(resolve);
    }),
    new Promise((resolve) => {
      closed.punch?.([{ offset: 0, length: 4096 }], resolve);
    }),
  ]);
  for (const answer of answers) t.match(answer, late);
  t.equal(fs.readFileSync(other.path, 'utf8'), '');
  other.close();
});
