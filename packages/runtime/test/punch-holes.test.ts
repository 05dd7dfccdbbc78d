import fs from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import { systemFiles, type FileRange, type OpenFile } from '../src/index.ts';

const kib = 1024;

function punch(file: OpenFile, ranges: FileRange[]): Promise<Error | null> {
  return new Promise((resolve) => {
    if (!file.punch) throw new Error('this form of files cannot punch');
    file.punch(ranges, resolve);
  });
}

function setUp(t: Test): { file: OpenFile; name: string } {
  const name = path.join(t.testdir(), 'data');
  const file = systemFiles.create(name);
  file.writeSync(Buffer.alloc(1024 * kib, 7), 0, 1024 * kib, 0);
  file.datasyncSync();
  return { file, name };
}

t.test('ranges are given back and read as zeros, and nothing else does', async (t) => {
  const { file, name } = setUp(t);
  const before = file.size();
  const ranges = [
    { offset: 0, length: 256 * kib },
    { offset: 768 * kib, length: 4 * kib },
  ];
  const error = await punch(file, ranges);
  if (error && /errno 95|cannot be punched/.test(error.message)) {
    t.not(process.env['CI'], 'true', 'CI has koffi and a file system that can');
    t.comment(`skipped: holes cannot be punched here: ${error.message}`);
    return;
  }
  t.equal(error, null);
  file.datasyncSync();
  const after = file.size();
  t.equal(after.sizeBytes, before.sizeBytes, 'the file keeps its size');
  t.ok(after.allocatedBytes <= before.allocatedBytes - 256 * kib, 'its space is back');
  const wanted = Buffer.alloc(1024 * kib, 7);
  for (const { offset, length } of ranges) wanted.fill(0, offset, offset + length);
  t.ok(fs.readFileSync(name).equals(wanted));
  file.close();
});

t.test('many ranges, a file that was renamed, and a range that is none', async (t) => {
  const { file, name } = setUp(t);
  fs.renameSync(name, `${name}-2`);
  const ranges = Array.from({ length: 128 }, (_, at) => ({
    offset: at * 8 * kib,
    length: 4 * kib,
  }));
  const error = await punch(file, ranges);
  if (error === null) {
    const found = fs.readFileSync(`${name}-2`);
    for (const { offset } of ranges) t.equal(found[offset + 100], 0);
    t.equal(found[4 * kib], 7);
  }
  const wrong = await punch(file, [{ offset: 0, length: 0 }]);
  t.type(wrong, Error, 'what cannot be done is told');
  file.close();
});
