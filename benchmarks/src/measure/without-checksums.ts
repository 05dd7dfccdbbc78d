/**
 * Loaded into an agent before its own code (`node --import`), for measuring what checksums cost: every
 * checksum is the same and takes no time, and the files that hold them are not written. The
 * product has no switch for this.
 */
import { createRequire } from 'node:module';
import type { OpenFile } from '@stor/runtime';

/** CRC-32 of a block of zeros: what a hole in the checksum file stands for. */
const always = 0xc71c0011;

const fromRuntime = createRequire(import.meta.resolve('@stor/runtime'));
const native = fromRuntime('@node-rs/crc32') as { crc32: () => number };
native.crc32 = () => always;
// only now: whoever imports it takes the function that is there then
const { systemFiles } = await import('@stor/runtime');

function withoutSums(file: OpenFile): OpenFile {
  if (!file.path.endsWith('/sums')) return file;
  file.writeSync = () => {};
  file.datasync = (done) => {
    setImmediate(done, null);
  };
  file.read = (target, start, length, _position, done) => {
    target.fill(0, start, start + length);
    setImmediate(done, null, length);
  };
  return file;
}

const open = systemFiles.open.bind(systemFiles);
const create = systemFiles.create.bind(systemFiles);
systemFiles.open = (path) => withoutSums(open(path));
systemFiles.create = (path) => withoutSums(create(path));
