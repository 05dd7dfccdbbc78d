import fc from 'fast-check';
import t from 'tap';
import {
  fallocateMode,
  fuseOpcode,
  initFlag,
  linuxErrno,
  requestHeaderBytes,
  writeBodyBytes,
} from '../src/core/fuse-numbers.ts';
import { FuseDisk, maxTransferBytes, type FuseStep } from '../src/core/fuse-disk.ts';
import { decodeFuseRequest } from '../src/core/fuse-requests.ts';
import { piecesOf } from '../src/core/request-pieces.ts';
import { RequestBudget } from '../src/core/request-budget.ts';
import {
  body,
  fallocateMessage,
  initMessage,
  message,
  readMessage,
  writeMessage,
} from './support/fuse-messages.ts';

const sizeBytes = 1024 * 1024;
const root = 1;
const file = 2;
const opcodes = Object.values(fuseOpcode);

function diskOf(readOnly = false): FuseDisk {
  return new FuseDisk({ sizeBytes, readOnly });
}

/** The error number of an answer, 0 for none; null when it is no answer. */
function errnoOf(step: FuseStep): number | null {
  return step.kind === 'reply' ? -step.bytes.readInt32LE(4) : null;
}

function replyOf(step: FuseStep): Buffer {
  if (step.kind !== 'reply') throw new Error(`not an answer: ${step.kind}`);
  return step.bytes;
}

t.test('whatever bytes come, they are understood within their bounds or refused', async (t) => {
  fc.assert(
    fc.property(
      fc.constantFrom(...opcodes, 0, 39, 9999),
      fc.uint8Array({ maxLength: 120 }),
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      fc.bigInt({ min: 0n, max: 3n }),
      (opcode, bytes, unique, node) => {
        const bytesOf = message(opcode, { unique, node }, Buffer.from(bytes));
        const request = decodeFuseRequest(bytesOf);
        t.equal(request.unique, unique);
        if (request.kind === 'write') {
          t.equal(request.end, bytesOf.length);
          t.equal(request.start, requestHeaderBytes + writeBodyBytes);
        }
        const step = diskOf().step(request);
        if (step.kind === 'reply') {
          t.equal(step.bytes.readUInt32LE(0), step.bytes.length, 'says its length');
          t.equal(step.bytes.readBigUInt64LE(8), unique);
          t.ok(step.bytes.readInt32LE(4) <= 0);
        }
        if ('offset' in step) {
          const end = step.kind === 'write' ? step.offset + step.end - step.start : 0;
          const length = 'length' in step ? step.length : 0;
          t.ok(step.offset >= 0 && Math.max(end, step.offset + length) <= sizeBytes);
        }
      },
    ),
  );
  for (const bad of [Buffer.alloc(0), Buffer.alloc(39), Buffer.alloc(80)]) {
    t.throws(() => decodeFuseRequest(bad), { code: 'PROTOCOL' });
  }
});

t.test('reads end with the volume, and what is written beyond it is refused', async (t) => {
  fc.assert(
    fc.property(fc.nat(2 * sizeBytes), fc.nat(maxTransferBytes), (offset, length) => {
      const disk = diskOf();
      const read = disk.step(decodeFuseRequest(readMessage(offset, length)));
      const within = Math.min(length, Math.max(0, sizeBytes - offset));
      if (within > 0) t.strictSame(read, { kind: 'read', offset, length: within });
      else t.equal(replyOf(read).length, 16);
      const zero = disk.step(
        decodeFuseRequest(fallocateMessage(offset, length, fallocateMode.punchHole)),
      );
      const fits = length > 0 && offset + length <= sizeBytes;
      t.equal(zero.kind, fits ? 'zero' : 'reply');
    }),
    { numRuns: 200 },
  );
  const data = Buffer.from('0123456789');
  const write = diskOf().step(decodeFuseRequest(writeMessage(sizeBytes - 10, data)));
  t.match(write, { kind: 'write', offset: sizeBytes - 10 });
  const beyond = diskOf().step(decodeFuseRequest(writeMessage(sizeBytes - 9, data)));
  t.equal(errnoOf(beyond), linuxErrno.ENOSPC);
  const huge = diskOf().step(decodeFuseRequest(readMessage(2n ** 63n, 4096)));
  t.equal(errnoOf(huge), linuxErrno.EINVAL);
});

t.test('a write is done as a whole or not at all', async (t) => {
  const whole = writeMessage(0, Buffer.alloc(100, 1));
  const cut = whole.subarray(0, whole.length - 1);
  cut.writeUInt32LE(cut.length, 0);
  t.equal(decodeFuseRequest(Buffer.from(cut)).kind, 'malformed');
  t.equal(errnoOf(diskOf().step(decodeFuseRequest(Buffer.from(cut)))), linuxErrno.EINVAL);
});

t.test('the first answer settles what is spoken', async (t) => {
  const ask = (major: number, minor: number, flags: number): Buffer =>
    replyOf(diskOf().step(decodeFuseRequest(initMessage(major, minor, flags))));
  const all = 0x7fffffff;
  const answer = ask(7, 44, all);
  t.equal(answer.length, 16 + 64);
  t.strictSame([answer.readUInt32LE(16), answer.readUInt32LE(20)], [7, 31]);
  const flags = answer.readUInt32LE(28);
  t.equal(flags & initFlag.writebackCache, 0, 'nothing is kept in this host alone');
  t.not(flags & initFlag.asyncDio, 0);
  t.equal(answer.readUInt32LE(36), 1024 * 1024, 'bytes of a write');
  t.equal(answer.readUInt16LE(44), 256, 'pages');
  const old = ask(7, 27, all & ~initFlag.maxPages);
  t.equal(old.readUInt32LE(36), 128 * 1024);
  t.equal(old.readUInt32LE(20), 27);
  t.equal(ask(8, 0, all).readUInt32LE(16), 7, 'a later one is told ours');
  t.equal(-ask(7, 22, all).readInt32LE(4), linuxErrno.EPROTO);
  t.equal(-ask(6, 44, all).readInt32LE(4), linuxErrno.EPROTO);
});

t.test('one file in one directory', async (t) => {
  const disk = diskOf();
  const step = (opcode: number, node: number, bytes: Buffer = Buffer.alloc(64)): FuseStep =>
    disk.step(decodeFuseRequest(message(opcode, { unique: 7n, node: BigInt(node) }, bytes)));
  const found = replyOf(step(fuseOpcode.lookup, root, Buffer.from('disk\0')));
  t.equal(found.readBigUInt64LE(16), BigInt(file));
  t.equal(found.readBigUInt64LE(16 + 40 + 8), BigInt(sizeBytes));
  t.equal(errnoOf(step(fuseOpcode.lookup, root, Buffer.from('disks\0'))), linuxErrno.ENOENT);
  t.equal(errnoOf(step(fuseOpcode.lookup, file, Buffer.from('disk\0'))), linuxErrno.ENOENT);
  t.equal(errnoOf(step(fuseOpcode.lookup, root, Buffer.from('disk'))), linuxErrno.EINVAL);
  const shown = replyOf(step(fuseOpcode.getattr, file));
  t.equal(shown.readBigUInt64LE(16), 0n, 'is asked for each time');
  t.equal(shown.readUInt32LE(16 + 16 + 60), 0o100600);
  disk.grow(2 * sizeBytes);
  disk.grow(sizeBytes);
  const grown = replyOf(step(fuseOpcode.getattr, file));
  t.equal(grown.readBigUInt64LE(16 + 16 + 8), BigInt(2 * sizeBytes), 'never smaller again');
  t.equal(errnoOf(step(fuseOpcode.getattr, 3)), linuxErrno.ENOENT);
  t.equal(replyOf(step(fuseOpcode.open, file)).readUInt32LE(24) & 1, 1, 'direct I/O');
  t.equal(errnoOf(step(fuseOpcode.open, root)), linuxErrno.EISDIR);
  t.equal(errnoOf(step(fuseOpcode.opendir, file)), linuxErrno.ENOTDIR);
  t.equal(errnoOf(step(fuseOpcode.opendir, root)), 0);
  t.strictSame(step(fuseOpcode.fsync, file), { kind: 'flush' });
  t.equal(errnoOf(step(fuseOpcode.fsync, root)), 0);
  t.strictSame(step(fuseOpcode.forget, file), { kind: 'none' });
  t.strictSame(step(fuseOpcode.batchForget, 0), { kind: 'none' });
  t.equal(errnoOf(step(fuseOpcode.interrupt, 0)), linuxErrno.ENOSYS, 'never asked again');
  t.equal(errnoOf(step(4, file)), linuxErrno.ENOSYS, 'SETATTR');
});

t.test('the directory is listed in as many answers as it takes', async (t) => {
  const names: string[] = [];
  for (let from = 0; from < 9;) {
    const request = readMessage(from, 40, { opcode: fuseOpcode.readdir, node: root });
    const entry = body(replyOf(diskOf().step(decodeFuseRequest(request))));
    if (entry.length === 0) break;
    names.push(entry.toString('utf8', 24, 24 + entry.readUInt32LE(16)));
    from = Number(entry.readBigUInt64LE(8));
  }
  t.strictSame(names, ['.', '..', 'disk']);
});

t.test('what was punched reads as zeros; a plain allocation is not offered', async (t) => {
  const ask = (mode: number, disk = diskOf()): FuseStep =>
    disk.step(decodeFuseRequest(fallocateMessage(4096, 8192, mode)));
  const { keepSize, punchHole, zeroRange } = fallocateMode;
  const zero = { kind: 'zero' as const, offset: 4096, length: 8192 };
  t.strictSame(ask(punchHole | keepSize), { ...zero, keepAllocated: false });
  t.strictSame(ask(zeroRange | keepSize), { ...zero, keepAllocated: true });
  for (const mode of [0, keepSize, punchHole | zeroRange, 0x40]) {
    t.equal(errnoOf(ask(mode)), linuxErrno.EOPNOTSUPP);
  }
  t.equal(errnoOf(ask(punchHole, diskOf(true))), linuxErrno.EROFS);
});

t.test('a read-only volume is opened for reading and takes no change', async (t) => {
  const disk = diskOf(true);
  const open = (flags: number): number | null => {
    const bytes = Buffer.alloc(8);
    bytes.writeUInt32LE(flags, 0);
    const ids = { unique: 1n, node: BigInt(file) };
    return errnoOf(disk.step(decodeFuseRequest(message(fuseOpcode.open, ids, bytes))));
  };
  t.strictSame([open(0), open(1), open(2)], [0, linuxErrno.EROFS, linuxErrno.EROFS]);
  const write = disk.step(decodeFuseRequest(writeMessage(0, Buffer.alloc(1))));
  t.equal(errnoOf(write), linuxErrno.EROFS);
  t.equal(disk.step(decodeFuseRequest(readMessage(0, 10))).kind, 'read');
});

t.test('pieces are the range, in order, and none is too long', async (t) => {
  fc.assert(
    fc.property(fc.nat(1 << 30), fc.nat(4096), fc.integer({ min: 1, max: 700 }), (at, n, most) => {
      const pieces = piecesOf(at, n, most);
      let next = at;
      for (const { offset, length } of pieces) {
        t.equal(offset, next);
        t.ok(length > 0 && length <= most);
        next += length;
      }
      t.equal(next, at + n);
    }),
  );
});

t.test('requests are bounded by number and by bytes', async (t) => {
  const budget = new RequestBudget(2, 100);
  budget.take(10);
  t.ok(budget.hasRoom);
  budget.take(10);
  t.notOk(budget.hasRoom, 'by number');
  budget.give(10);
  budget.take(90);
  budget.give(10);
  t.ok(budget.hasRoom);
  budget.take(10);
  budget.give(90);
  budget.take(1000);
  budget.give(10);
  t.notOk(budget.hasRoom, 'by bytes');
  t.equal(budget.requests, 1);
});
