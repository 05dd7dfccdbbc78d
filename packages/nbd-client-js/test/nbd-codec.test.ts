import fc from 'fast-check';
import t from 'tap';
import {
  ClientHandshake,
  Coverage,
  NbdError,
  ReplyDecoder,
  chunkFlag,
  chunkType,
  decodeGoBody,
  decodeGreeting,
  decodeInfo,
  decodeMetaContextBody,
  decodeMetaContextReply,
  decodeOptionHeader,
  decodeOptionReplyHeader,
  decodeServerBody,
  encodeExportNameReply,
  encodeGoBody,
  encodeGreeting,
  encodeInfo,
  encodeMetaContextBody,
  encodeMetaContextReply,
  encodeOption,
  encodeOptionReply,
  encodeServerBody,
  formatNbdUri,
  optionReplyType,
  optionType,
  parseNbdUri,
  readU64,
  requestHeaderBytes,
  writeChunkHeader,
  writeRequest,
  writeSimpleReply,
  writeU64,
  type ReplyHandler,
  compareConnections,
  formatClientContext,
  parseClientContext,
  type ClientIdentity,
} from '../src/index.ts';

const text = fc.string({ unit: 'grapheme', maxLength: 60 }).map((s) => s.replaceAll('\0', '.'));
const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffffffff });
const safe = fc.maxSafeNat();

t.test('what is encoded decodes to the same, and no shorter or longer body does', async (t) => {
  const exact = <T>(encode: (v: T) => Buffer, decode: (b: Buffer) => T | null) => {
    return (value: T) => {
      const bytes = encode(value);
      t.strictSame(decode(bytes), value);
      for (let cut = 0; cut < bytes.length; cut++) {
        if (decode(bytes.subarray(0, cut)) !== null) return false;
      }
      return decode(Buffer.concat([bytes, Buffer.from([1])])) === null;
    };
  };
  const plain = { noNullPrototype: true };
  const goBody = fc.record({ name: text, infos: fc.array(u16, { maxLength: 8 }) }, plain);
  fc.assert(fc.property(goBody, exact(encodeGoBody, decodeGoBody)), { numRuns: 60 });
  const meta = fc.record({ name: text, queries: fc.array(text, { maxLength: 5 }) }, plain);
  fc.assert(fc.property(meta, exact(encodeMetaContextBody, decodeMetaContextBody)), {
    numRuns: 60,
  });
  fc.assert(
    fc.property(text, (name) => decodeServerBody(encodeServerBody(name)) === name),
    { numRuns: 60 },
  );
  fc.assert(
    fc.property(u32, text, (id, name) => {
      const decoded = decodeMetaContextReply(encodeMetaContextReply({ id, name }));
      return name === '' ? decoded === null : decoded?.id === id && decoded.name === name;
    }),
  );
  fc.assert(
    fc.property(safe, u16, (sizeBytes, flags) => {
      t.strictSame(decodeInfo(encodeInfo({ kind: 'export', sizeBytes, flags })), {
        kind: 'export',
        sizeBytes,
        flags,
      });
    }),
  );
  fc.assert(
    fc.property(u16, u32, fc.uint8Array({ maxLength: 40 }), (option, type, data) => {
      const sent = encodeOption(option, data);
      t.strictSame(decodeOptionHeader(sent, 0), { option, length: data.length });
      const reply = encodeOptionReply(option, type, data);
      t.strictSame(decodeOptionReplyHeader(reply, 0), { option, type, length: data.length });
      sent[0]! ^= 1;
      reply[7]! ^= 1;
      t.equal(decodeOptionHeader(sent, 0), null);
      t.equal(decodeOptionReplyHeader(reply, 0), null);
    }),
    { numRuns: 30 },
  );
  t.equal(decodeGreeting(encodeGreeting(3), 0), 3);
});

t.test('the bytes on the wire are those of the specification', async (t) => {
  t.equal(encodeGreeting(3).toString('hex'), '4e42444d4147494349484156454f50540003');
  t.equal(
    encodeOption(7, encodeGoBody({ name: 'ab', infos: [3] })).toString('hex'),
    '49484156454f5054' + '00000007' + '0000000a' + '00000002' + '6162' + '0001' + '0003',
  );
  t.equal(
    encodeOptionReply(7, optionReplyType.errUnknown).toString('hex'),
    '0003e889045565a9' + '00000007' + '80000006' + '00000000',
  );
  t.equal(
    encodeInfo({ kind: 'blockSize', minimum: 1, preferred: 4096, maximum: 2 ** 25 }).toString(
      'hex',
    ),
    '0003' + '00000001' + '00001000' + '02000000',
  );
  t.equal(encodeExportNameReply(2 ** 33 + 5, 0x16d, true).toString('hex'), '0000000200000005016d');
  t.equal(encodeExportNameReply(5, 1, false).length, 134);
  const bytes = Buffer.alloc(64);
  writeRequest(bytes, 0, {
    flags: 1,
    type: 6,
    cookieHigh: 0x01020304,
    cookieLow: 0xa0b0c0d0,
    offset: 2 ** 40 + 7,
    length: 512,
  });
  t.equal(
    bytes.subarray(0, requestHeaderBytes).toString('hex'),
    '25609513' + '0001' + '0006' + '01020304a0b0c0d0' + '0000010000000007' + '00000200',
  );
  const end = writeSimpleReply(bytes, 0, 28, 1, 2);
  t.equal(bytes.subarray(0, end).toString('hex'), '67446698' + '0000001c' + '0000000100000002');
  const chunkEnd = writeChunkHeader(bytes, 0, 1, 0x8001, 1, 2, 6);
  t.equal(
    bytes.subarray(0, chunkEnd).toString('hex'),
    '668e33ef' + '0001' + '8001' + '0000000100000002' + '00000006',
  );
});

t.test('64-bit numbers are exact up to 2^53 and stay above it beyond', async () => {
  const bytes = Buffer.alloc(8);
  fc.assert(
    fc.property(safe, (value) => {
      writeU64(bytes, value, 0);
      return readU64(bytes, 0) === value && bytes.readBigUInt64BE(0) === BigInt(value);
    }),
  );
  fc.assert(
    fc.property(fc.bigInt({ min: 2n ** 53n, max: 2n ** 64n - 1n }), (value) => {
      bytes.writeBigUInt64BE(value, 0);
      return readU64(bytes, 0) > Number.MAX_SAFE_INTEGER;
    }),
  );
});

t.test('decoders of bodies survive any bytes', async (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (raw) => {
      const bytes = Buffer.from(raw);
      decodeGoBody(bytes);
      decodeMetaContextBody(bytes);
      decodeServerBody(bytes);
      decodeMetaContextReply(bytes);
      decodeInfo(bytes);
    }),
    { numRuns: 500 },
  );
  // a count or length that promises far more than there is must not be believed
  const lying = Buffer.from('00000000ffffffff', 'hex');
  t.equal(decodeMetaContextBody(lying), null);
  t.equal(decodeGoBody(Buffer.from('ffffffff00000000', 'hex')), null);
});

/** Writes down what a decoder says; reads of 64 bytes at offset 1000 + 64 * cookie. */
function recorder(): { handler: ReplyHandler; log: string[] } {
  const log: string[] = [];
  const handler: ReplyHandler = {
    simple: (cookie, errno) => {
      log.push(`simple ${cookie} ${errno}`);
      return errno === 0 && cookie % 2 === 0 ? { offset: 1000, length: 5 } : null;
    },
    extendedChunk: (cookie, offset) => log.push(`extended ${cookie} ${offset}`),
    dataChunk: (cookie, offset, length) => log.push(`chunk ${cookie} ${offset} ${length}`),
    data: (cookie, offset, bytes, start, end) => {
      log.push(
        ...[...bytes.subarray(start, end)].map((b, i) => `byte ${cookie} ${offset + i} ${b}`),
      );
    },
    hole: (cookie, offset, length) => log.push(`hole ${cookie} ${offset} ${length}`),
    status: (cookie, id, found) =>
      log.push(`status ${cookie} ${id} ${found.map((d) => `${d.length}/${d.flags}`).join(',')}`),
    error: (cookie, errno, message, offset) =>
      log.push(`error ${cookie} ${errno} ${message} ${offset}`),
    finished: (cookie) => log.push(`finished ${cookie}`),
  };
  return { handler, log };
}

type Reply =
  | { kind: 'simple'; cookie: number; errno: number; data: Uint8Array }
  | { kind: 'data'; cookie: number; offset: number; data: Uint8Array; done: boolean }
  | { kind: 'hole'; cookie: number; offset: number; length: number; done: boolean }
  | { kind: 'none'; cookie: number }
  | { kind: 'status'; cookie: number; lengths: number[] }
  | { kind: 'error'; cookie: number; errno: number; message: string };

function encodeReply(reply: Reply): Buffer {
  const bytes = Buffer.alloc(4096);
  const { cookie } = reply;
  const chunk = (done: boolean, type: number, length: number): number =>
    writeChunkHeader(bytes, 0, done ? chunkFlag.done : 0, type, 0, cookie, length);
  let at: number;
  switch (reply.kind) {
    case 'simple': {
      at = writeSimpleReply(bytes, 0, reply.errno, 0, cookie);
      if (reply.errno === 0 && cookie % 2 === 0) {
        bytes.set(reply.data, at);
        at += 5;
      }
      return bytes.subarray(0, at);
    }
    case 'data':
      at = chunk(reply.done, chunkType.offsetData, 8 + reply.data.length);
      writeU64(bytes, reply.offset, at);
      bytes.set(reply.data, at + 8);
      return bytes.subarray(0, at + 8 + reply.data.length);
    case 'hole':
      at = chunk(reply.done, chunkType.offsetHole, 12);
      writeU64(bytes, reply.offset, at);
      bytes.writeUInt32BE(reply.length, at + 8);
      return bytes.subarray(0, at + 12);
    case 'none':
      return bytes.subarray(0, chunk(true, chunkType.none, 0));
    case 'status':
      at = chunk(true, chunkType.blockStatus, 4 + 8 * reply.lengths.length);
      at = bytes.writeUInt32BE(1, at);
      for (const length of reply.lengths) {
        at = bytes.writeUInt32BE(length, at);
        at = bytes.writeUInt32BE(length & 3, at);
      }
      return bytes.subarray(0, at);
    case 'error': {
      const message = Buffer.from(reply.message);
      at = chunk(true, chunkType.error, 6 + message.length);
      at = bytes.writeUInt32BE(reply.errno, at);
      at = bytes.writeUInt16BE(message.length, at);
      bytes.set(message, at);
      return bytes.subarray(0, at + message.length);
    }
  }
}

const cookie = fc.integer({ min: 0, max: 9 });
const someBytes = fc.uint8Array({ minLength: 1, maxLength: 30 });
const replies = fc.array(
  fc.oneof(
    fc.record({
      kind: fc.constant('simple' as const),
      cookie,
      errno: fc.constantFrom(0, 5, 28),
      data: fc.uint8Array({ minLength: 5, maxLength: 5 }),
    }),
    fc.record({
      kind: fc.constant('data' as const),
      cookie,
      offset: safe,
      data: someBytes,
      done: fc.boolean(),
    }),
    fc.record({
      kind: fc.constant('hole' as const),
      cookie,
      offset: safe,
      length: u32,
      done: fc.boolean(),
    }),
    fc.record({ kind: fc.constant('none' as const), cookie }),
    fc.record({
      kind: fc.constant('status' as const),
      cookie,
      lengths: fc.array(fc.integer({ min: 1, max: 0xffffffff }), { minLength: 1, maxLength: 20 }),
    }),
    fc.record({
      kind: fc.constant('error' as const),
      cookie,
      errno: fc.integer({ min: 1, max: 200 }),
      message: text,
    }),
  ),
  { minLength: 1, maxLength: 12 },
);

t.test('replies decode alike however the stream is cut', async (t) => {
  fc.assert(
    fc.property(
      replies,
      fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }),
      (list, cuts) => {
        const stream = Buffer.concat(list.map(encodeReply));
        const whole = recorder();
        new ReplyDecoder(whole.handler, 'structured').receive(stream, 0, stream.length);
        const pieces = recorder();
        const decoder = new ReplyDecoder(pieces.handler, 'structured');
        for (let at = 0, i = 0; at < stream.length; i++) {
          const end = Math.min(at + cuts[i % cuts.length]!, stream.length);
          // a copy that is overwritten afterwards: nothing may keep a reference
          const piece = Buffer.from(stream.subarray(at, end));
          decoder.receive(piece, 0, piece.length);
          piece.fill(0xee);
          at = end;
        }
        t.strictSame(pieces.log, whole.log);
        const finished = list.filter((r) => !('done' in r) || r.done).length;
        return whole.log.filter((line) => line.startsWith('finished')).length === finished;
      },
    ),
    { numRuns: 200 },
  );
});

t.test('a stream that breaks the rules is refused, and no length is believed', async (t) => {
  const refuse = (name: string, bytes: Buffer, structured = true): void => {
    const decoder = new ReplyDecoder(recorder().handler, structured ? 'structured' : 'simple');
    t.throws(
      () => decoder.receive(bytes, 0, bytes.length),
      { name: 'NbdError', code: 'PROTOCOL' },
      name,
    );
  };
  const header = (type: number, length: number, flags = 1): Buffer => {
    const bytes = Buffer.alloc(20);
    writeChunkHeader(bytes, 0, flags, type, 0, 1, length);
    return bytes;
  };
  refuse('magic', Buffer.from('deadbeef00000000', 'hex'));
  refuse('structured where none was negotiated', header(chunkType.none, 0), false);
  refuse('none with a body', header(chunkType.none, 4));
  refuse('none that is not the last', header(chunkType.none, 0, 0));
  refuse('data without data', header(chunkType.offsetData, 8));
  refuse('hole of another length', header(chunkType.offsetHole, 13));
  refuse('status without a descriptor', header(chunkType.blockStatus, 4));
  refuse('status of an odd length', header(chunkType.blockStatus, 13));
  refuse('status of 4 GiB', header(chunkType.blockStatus, 0xfffffffc));
  refuse('error of 4 GiB', header(chunkType.error, 0xffffffff));
  refuse('error too short', header(chunkType.error, 5));
  refuse('unknown type', header(77, 0));
  const longMessage = Buffer.concat([
    header(chunkType.error, 6),
    Buffer.from('000000050001', 'hex'),
  ]);
  refuse('message longer than its chunk', longMessage);
  const noError = Buffer.concat([header(chunkType.error, 6), Buffer.from('000000000000', 'hex')]);
  refuse('error 0', noError);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.boolean(), (raw, startsRight) => {
      const decoder = new ReplyDecoder(recorder().handler, 'structured');
      const bytes = Buffer.from(raw);
      if (startsRight && bytes.length > 4) bytes.writeUInt32BE(0x668e33ef, 0);
      try {
        decoder.receive(bytes, 0, bytes.length);
      } catch (error) {
        return error instanceof NbdError;
      }
      return true;
    }),
    { numRuns: 500 },
  );
});

t.test('coverage agrees with a set of bytes', async (t) => {
  const range = fc.record({ start: fc.nat(30), length: fc.integer({ min: 1, max: 8 }) });
  fc.assert(
    fc.property(fc.array(range, { maxLength: 25 }), (ranges) => {
      const coverage = new Coverage();
      const seen = new Set<number>();
      for (const { start, length } of ranges) {
        const bytes = Array.from({ length }, (_, i) => start + i);
        const isNew = !bytes.some((b) => seen.has(b));
        if (coverage.add(start, start + length) !== isNew) return false;
        if (!isNew) return true;
        for (const b of bytes) seen.add(b);
        const full = Array.from({ length: 10 }, (_, i) => 5 + i).every((b) => seen.has(b));
        const isOnePiece = coverage.pieces === 1;
        if (isOnePiece && coverage.covers(5, 15) !== full) return false;
        if (!isOnePiece && coverage.covers(0, 38)) return false;
      }
      return true;
    }),
    { numRuns: 500 },
  );
  t.pass('agrees');
});

t.test('URIs', async (t) => {
  t.strictSame(parseNbdUri('nbd://node-1:17113/db'), {
    address: { host: 'node-1', port: 17113 },
    exportName: 'db',
  });
  t.strictSame(parseNbdUri('nbd://[::1]/a%20b/c'), {
    address: { host: '::1', port: 10809 },
    exportName: 'a b/c',
  });
  t.strictSame(parseNbdUri('nbd+unix:///db?socket=/run/x%20y.sock'), {
    address: { path: '/run/x y.sock' },
    exportName: 'db',
  });
  t.strictSame(parseNbdUri('nbd+unix://?socket=/s').exportName, '');
  for (const bad of [
    '',
    'db',
    'http://x/y',
    'nbd+unix:///db',
    'nbd:///x',
    'nbd://h/%zz',
    'nbd://h/a b',
    'nbd://h:99999/x',
  ]) {
    t.throws(() => parseNbdUri(bad), { code: 'INVALID_ARGUMENT' }, bad);
  }
  fc.assert(
    fc.property(
      fc.oneof(text, fc.constantFrom('.', '..', 'a/../b', '%2e')),
      fc.integer({ min: 1, max: 65535 }),
      (exportName, port) => {
        for (const address of [
          { host: '10.0.0.1', port },
          { host: 'fe80::1', port },
          { path: '/a b' },
        ]) {
          t.strictSame(parseNbdUri(formatNbdUri({ address, exportName })), { address, exportName });
        }
      },
    ),
    { numRuns: 50 },
  );
});

t.test(
  'a server that cannot tell about contexts now refuses; one that knows none does not',
  (t) => {
    const wishes = {
      exportName: 'db',
      structuredReplies: true,
      metaContexts: ['base:allocation'],
      listOnly: false,
    };
    const answer = (type: number): Buffer =>
      Buffer.concat([
        encodeGreeting(3),
        encodeOptionReply(optionType.structuredReply, optionReplyType.ack),
        encodeOptionReply(optionType.setMetaContext, type),
      ]);
    const shutting = answer(optionReplyType.errShutdown);
    t.throws(() => new ClientHandshake(wishes).receive(shutting, 0, shutting.length), {
      code: 'REFUSED',
    });
    const knowsNone = answer(optionReplyType.errUnsup);
    t.equal(new ClientHandshake(wishes).receive(knowsNone, 0, knowsNone.length), knowsNone.length);
    t.end();
  },
);

t.test('the handshake decodes alike however the stream is cut', async (t) => {
  const stream = Buffer.concat([
    encodeGreeting(3),
    encodeOptionReply(optionType.structuredReply, optionReplyType.ack),
    encodeOptionReply(
      optionType.setMetaContext,
      optionReplyType.metaContext,
      encodeMetaContextReply({ id: 9, name: 'base:allocation' }),
    ),
    encodeOptionReply(optionType.setMetaContext, optionReplyType.ack),
    encodeOptionReply(
      optionType.go,
      optionReplyType.info,
      encodeInfo({ kind: 'export', sizeBytes: 4096, flags: 0x16d }),
    ),
    encodeOptionReply(optionType.go, optionReplyType.info, Buffer.from([0, 99, 1, 2])),
    encodeOptionReply(optionType.go, optionReplyType.ack),
  ]);
  const wishes = {
    exportName: 'db',
    structuredReplies: true,
    metaContexts: ['base:allocation'],
    listOnly: false,
  };
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }), (cuts) => {
      const handshake = new ClientHandshake(wishes);
      let start = 0;
      for (let end = 0, i = 0; end < stream.length; i++) {
        end = Math.min(end + cuts[i % cuts.length]!, stream.length);
        start += handshake.receive(stream, start, end);
      }
      const sent = Buffer.concat(handshake.output);
      return (
        start === stream.length &&
        handshake.result?.sizeBytes === 4096 &&
        handshake.result.metaContexts.get('base:allocation') === 9 &&
        sent.readUInt32BE(0) === 3
      );
    }),
  );
  t.pass('agrees');
});

t.test('a client says who it is, and which of its connections is newer', async (t) => {
  const number = fc.integer({ min: 0, max: 1e15 - 1 });
  const id = fc.stringMatching(/^[A-Za-z0-9_-]{1,64}$/);
  const sequence = fc.array(number, { minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(id, sequence, (...[name, numbers]) => {
      const is = { id: name, sequence: numbers };
      t.strictSame(parseClientContext(formatClientContext(is)), is);
    }),
  );
  for (const other of [
    'base:allocation',
    'x-client:',
    'x-client:a',
    'x-client:a:',
    'x-client:a b:1',
    'x-client:a:1.',
    'x-client:a:1.2.3.4.5',
    'x-client:a:-1',
    `x-client:${'a'.repeat(65)}:1`,
    'x-client:a:1\n',
  ]) {
    t.equal(parseClientContext(other), null, other);
  }
  const at = (...sequence: number[]): ClientIdentity => ({ id: 'a', sequence });
  t.ok(compareConnections(at(1), at(2)) < 0);
  t.ok(compareConnections(at(2), at(1, 9)) > 0);
  t.ok(compareConnections(at(1), at(1, 1)) < 0, 'a relay of a connection is newer than it');
  t.ok(compareConnections(at(1, 10), at(1, 9)) > 0);
  t.equal(compareConnections(at(1), at(1, 0)), 0);
});
