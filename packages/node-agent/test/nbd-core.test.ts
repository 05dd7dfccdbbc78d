import fc from 'fast-check';
import {
  command,
  commandFlag,
  encodeClientFlags,
  encodeGoBody,
  encodeMetaContextBody,
  encodeOption,
  errno,
  optionReplyType,
  optionType,
} from 'nbd-client-js';
import t from 'tap';
import { errorCodes } from '@stor/protocol';
import { nbdErrnoOf, nbdOptionErrorOf } from '../src/core/nbd/nbd-errno.ts';
import { defaultNbdLimits } from '../src/core/nbd/nbd-limits.ts';
import { checkRequest } from '../src/core/nbd/request-check.ts';
import {
  ServerHandshake,
  type HandshakeAnswer,
  type HandshakeStep,
} from '../src/core/nbd/server-handshake.ts';
import { allocationExtent, statusDescriptors } from '../src/core/nbd/status-descriptors.ts';

/** Runs a handshake to its end, answering questions about the volume `db` of 1 MiB. */
function run(input: Buffer, cuts: number[] = [1 << 20]): string[] {
  const handshake = new ServerHandshake(defaultNbdLimits);
  const log: string[] = [`send ${handshake.greeting().toString('hex')}`];
  let start = 0;
  const perform = (step: HandshakeStep): boolean => {
    for (const bytes of step.send) log.push(`send ${bytes.toString('hex')}`);
    const { next } = step;
    if (next.kind === 'ask') {
      log.push(`ask ${JSON.stringify(next.question)}`);
      const { question } = next;
      let answer: HandshakeAnswer;
      if (question.kind === 'list') answer = { kind: 'names', names: ['db'] };
      else if (question.name === 'db@mon' && question.kind !== 'snapshots') {
        answer = { kind: 'export', name: 'db@mon', sizeBytes: 1 << 20, readOnly: true };
      } else if (question.name === 'db' && question.kind === 'snapshots') {
        const all = ['mon', 'tue'];
        const { asked } = question;
        answer = {
          kind: 'snapshots',
          names: asked === 'all' ? all : all.filter((name) => asked.includes(name)),
        };
      } else if (question.name === 'db') {
        answer = { kind: 'export', name: 'db', sizeBytes: 1 << 20, readOnly: false };
      } else answer = { kind: 'error', type: optionReplyType.errUnknown, message: 'no' };
      return perform(handshake.answer(answer));
    }
    if (next.kind === 'close') log.push('close');
    if (next.kind === 'transmission') {
      const { form, contexts } = handshake;
      log.push(`transmission ${JSON.stringify({ form, contexts })}`);
    }
    return next.kind === 'again' || next.kind === 'wait';
  };
  for (let end = 0, i = 0; end < input.length; i++) {
    end = Math.min(end + cuts[i % cuts.length]!, input.length);
    for (;;) {
      const step = handshake.receive(input, start, end);
      start += step.used;
      if (!perform(step)) return log;
      if (step.next.kind === 'wait') break;
    }
  }
  return log;
}

const flags = encodeClientFlags(3);
const greeting = 'send 4e42444d4147494349484156454f50540003';
const replyTo = (option: number, type: number, data = ''): string =>
  'send 0003e889045565a9' +
  option.toString(16).padStart(8, '0') +
  type.toString(16).padStart(8, '0') +
  (data.length / 2).toString(16).padStart(8, '0') +
  data;
const hex = (text: string): string => Buffer.from(text).toString('hex');
const metaBody = (name: string, ...queries: string[]): Buffer =>
  encodeMetaContextBody({ name, queries });

t.test('GO, as qemu does it: structured replies, context, block size', async (t) => {
  const input = Buffer.concat([
    flags,
    encodeOption(optionType.structuredReply),
    encodeOption(optionType.setMetaContext, metaBody('db', 'base:allocation', 'qemu:x')),
    encodeOption(optionType.go, encodeGoBody({ name: 'db', infos: [3, 1, 77] })),
  ]);
  const expected = [
    greeting,
    replyTo(8, 1),
    'ask {"kind":"info","name":"db"}',
    replyTo(10, 4, '00000001' + hex('base:allocation')),
    replyTo(10, 1),
    'ask {"kind":"open","name":"db","client":null,"contexts":["base:allocation"]}',
    // flags: HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, DF, MULTI_CONN, CACHE, FAST_ZERO
    replyTo(7, 3, '0000' + '0000000000100000' + '0ded'),
    replyTo(7, 3, '0001' + hex('db')),
    replyTo(7, 3, '0003' + '00000001' + '00001000' + '02000000'),
    replyTo(7, 1),
    'transmission {"form":"structured","contexts":["base:allocation"]}',
  ];
  t.strictSame(run(input), expected);
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }), (cuts) => {
      t.strictSame(run(input, cuts), expected);
    }),
    { numRuns: 30 },
  );
});

t.test(
  'EXPORT_NAME with and without zeroes; DF is not offered without structured replies',
  async (t) => {
    const input = (clientFlags: number, name: string): Buffer =>
      Buffer.concat([
        encodeClientFlags(clientFlags),
        encodeOption(optionType.exportName, Buffer.from(name)),
      ]);
    const ask = 'ask {"kind":"open","name":"db","client":null,"contexts":[]}';
    const transmission = 'transmission {"form":"simple","contexts":[]}';
    const head = 'send 0000000000100000' + '0d6d';
    t.strictSame(run(input(3, 'db')), [greeting, ask, head, transmission]);
    t.strictSame(run(input(1, 'db')), [greeting, ask, head + '00'.repeat(124), transmission]);
    t.strictSame(run(input(0, 'db')), [greeting, ask, head + '00'.repeat(124), transmission]);
    t.strictSame(run(input(3, 'x')), [
      greeting,
      'ask {"kind":"open","name":"x","client":null,"contexts":[]}',
      'close',
    ]);
  },
);

t.test('questions, refusals and what is unknown leave the handshake open', async (t) => {
  const options: [number, Buffer, RegExp[]][] = [
    [
      optionType.list,
      Buffer.alloc(0),
      [/^ask.*list/, new RegExp(replyTo(3, 2, '000000026462')), /00000003000000010{8}$/],
    ],
    [optionType.list, Buffer.alloc(1), [/0000000380000003/]],
    [
      optionType.info,
      encodeGoBody({ name: 'db', infos: [] }),
      [/^ask.*info.*db/, /0000000600000003/, /0000000600000001/],
    ],
    [
      optionType.info,
      encodeGoBody({ name: 'x', infos: [] }),
      [/^ask/, /0000000680000006000000026e6f$/],
    ],
    [optionType.go, encodeGoBody({ name: 'x', infos: [] }), [/^ask.*open/, /0000000780000006/]],
    [optionType.go, Buffer.alloc(5), [/0000000780000003/]],
    [optionType.starttls, Buffer.alloc(0), [/0000000580000001/]],
    [optionType.starttls, Buffer.alloc(1), [/0000000580000001/]],
    [4, Buffer.alloc(9), [/0000000480000001/]],
    [0xffffffff, Buffer.alloc(0), [/ffffffff80000001/]],
    [optionType.setMetaContext, metaBody('db', 'base:allocation'), [/0000000a80000003/]],
    [optionType.structuredReply, Buffer.alloc(2), [/0000000880000003/]],
    [optionType.structuredReply, Buffer.alloc(0), [/0000000800000001/]],
    [
      optionType.listMetaContext,
      metaBody('db'),
      [/^ask/, ...Array<RegExp>(3).fill(/0000000900000004.{8}00000000/), /0000000900000001/],
    ],
    [
      optionType.listMetaContext,
      metaBody('db', 'stor:dirty-since-tue'),
      [/^ask.*snapshots.*tue/, /0000000900000004.*2d747565$/, /0000000900000001/],
    ],
    [
      optionType.listMetaContext,
      metaBody('db', 'base:'),
      [/^ask/, /0000000900000004/, /0000000900000001/],
    ],
    [optionType.listMetaContext, metaBody('db', 'qemu:'), [/^ask/, /0000000900000001/]],
    [optionType.listMetaContext, metaBody('x'), [/^ask/, /0000000980000006/]],
    [optionType.setMetaContext, metaBody('db', 'base:'), [/^ask/, /0000000a00000001/]],
    [optionType.setMetaContext, metaBody('db', 'nonsense'), [/0000000a80000003/]],
    [optionType.setMetaContext, Buffer.alloc(3), [/0000000a80000003/]],
    // too large an option is skipped
    [optionType.go, Buffer.alloc(20_000), [/0000000780000009/]],
    [optionType.abort, Buffer.alloc(0), [/0000000200000001/, /^close$/]],
  ];
  const input = Buffer.concat([flags, ...options.map(([o, data]) => encodeOption(o, data))]);
  const log = run(input).slice(1);
  const patterns = options.flatMap(([, , expected]) => expected);
  t.equal(log.length, patterns.length);
  patterns.forEach((pattern, i) => t.match(log[i], pattern));
});

t.test('a client may say who it is, and which of its connections this is', async (t) => {
  const log = run(
    Buffer.concat([
      flags,
      encodeOption(optionType.structuredReply),
      encodeOption(
        optionType.setMetaContext,
        metaBody('db', 'base:allocation', 'x-client:ab-1:7.2'),
      ),
      encodeOption(optionType.go, encodeGoBody({ name: 'db', infos: [] })),
    ]),
  );
  t.ok(
    log.includes(
      'ask {"kind":"open","name":"db","client":{"id":"ab-1","sequence":[7,2]},"contexts":["base:allocation"]}',
    ),
    'it is told with the question',
  );
  t.equal(log.at(-1), 'transmission {"form":"structured","contexts":["base:allocation"]}');
  t.equal(log.filter((line) => line.includes(hex('x-client'))).length, 0, 'and is no context');
});

t.test(
  'a context counts only for the export it was set for, and until it is set anew',
  async (t) => {
    const go = encodeOption(optionType.go, encodeGoBody({ name: 'db', infos: [] }));
    const last = (...options: Buffer[]): string | undefined =>
      run(Buffer.concat([flags, encodeOption(optionType.structuredReply), ...options, go])).at(-1);
    const set = (...args: [string, ...string[]]): Buffer =>
      encodeOption(optionType.setMetaContext, metaBody(...args));
    t.match(last(set('db', 'base:allocation')), /"contexts":\["base:allocation"\]/);
    t.match(last(set('x', 'base:allocation')), /"contexts":\[\]/);
    t.match(last(set('db', 'base:allocation'), set('db')), /"contexts":\[\]/);
    t.match(
      last(set('db', 'base:allocation'), encodeOption(optionType.setMetaContext, Buffer.alloc(2))),
      /"contexts":\[\]/,
    );
  },
);

t.test('what ends the connection', async (t) => {
  const ends = (name: string, ...parts: Buffer[]): void => {
    t.equal(run(Buffer.concat(parts)).at(-1), 'close', name);
  };
  ends('unknown client flags', encodeClientFlags(4));
  ends('wrong magic', flags, Buffer.alloc(16, 7));
  ends('an option without fixed newstyle', encodeClientFlags(0), encodeOption(optionType.list));
  const huge = encodeOption(optionType.go).fill(0xff, 12, 16);
  ends('4 GiB of option', flags, huge);
  ends('too long a name', flags, encodeOption(optionType.exportName, Buffer.alloc(5000, 97)));
  ends('a name that is not UTF-8', flags, encodeOption(optionType.exportName, Buffer.from([0xff])));
  const limits = { ...defaultNbdLimits, options: 2 };
  const handshake = new ServerHandshake(limits);
  handshake.receive(flags, 0, 4);
  const option = encodeOption(99);
  const kinds = [1, 2, 3].map(() => handshake.receive(option, 0, option.length).next.kind);
  t.strictSame(kinds, ['again', 'again', 'close']);
});

t.test('any bytes at all end in a step that waits or closes', async (t) => {
  const option = fc
    .record({
      option: fc.oneof(fc.integer({ min: 0, max: 12 }), fc.nat()),
      data: fc.uint8Array({ maxLength: 60 }),
      lie: fc.option(fc.nat(0xffffffff)),
    })
    .map(({ option, data, lie }) => {
      const bytes = encodeOption(option, data);
      if (lie !== null) bytes.writeUInt32BE(lie, 12);
      return bytes;
    });
  const pieces = fc.array(fc.oneof(option, fc.uint8Array({ maxLength: 30 })), { maxLength: 10 });
  fc.assert(
    fc.property(
      pieces,
      fc.array(fc.integer({ min: 1, max: 99 }), { minLength: 1 }),
      (list, cuts) => {
        const input = Buffer.concat([flags, ...list]);
        const whole = run(input);
        t.strictSame(run(input, cuts), whole);
      },
    ),
    { numRuns: 300 },
  );
});

t.test('requests are judged as the specification says', async (t) => {
  const rules = {
    sizeBytes: 10_000,
    payloadBytes: 4_096,
    form: 'structured' as const,
    hasContexts: true,
    readOnly: false,
  };
  const ask = (type: number, flags: number, offset: number, length: number, change = {}): number =>
    checkRequest(type, flags, offset, length, { ...rules, ...change });
  const ok: [number, number, number, number][] = [
    [command.read, 0, 9_999, 1],
    [command.read, commandFlag.df, 0, 4_096],
    [command.write, commandFlag.fua, 0, 4_096],
    [command.write, 0, 10_000, 0],
    [command.trim, 0, 0, 10_000],
    [command.writeZeroes, commandFlag.noHole | commandFlag.fua, 0, 10_000],
    [command.blockStatus, commandFlag.reqOne, 0, 10_000],
    [command.cache, 0, 0, 10_000],
    [command.flush, 0, 0, 0],
  ];
  for (const request of ok) {
    t.equal(ask(...request), 0);
    // FUA must be accepted on every command
    t.equal(ask(request[0], request[1] | commandFlag.fua, request[2], request[3]), 0);
  }
  for (const type of [command.write, command.writeZeroes]) {
    t.equal(ask(type, 0, 9_999, 2), errno.ENOSPC);
    t.equal(ask(type, 0, 2 ** 63, 1), errno.ENOSPC);
  }
  for (const type of [command.read, command.trim, command.blockStatus, command.cache]) {
    t.equal(ask(type, 0, 9_999, 2), errno.EINVAL);
    t.equal(ask(type, 0, 2 ** 64, 1), errno.EINVAL);
  }
  t.equal(ask(command.read, 0, 0, 4_097), errno.EINVAL);
  t.equal(ask(command.write, 0, 0, 4_097), errno.EINVAL);
  t.equal(ask(command.read, commandFlag.df, 0, 1, { form: 'simple' }), errno.EINVAL);
  t.equal(ask(command.blockStatus, 0, 0, 1, { hasContexts: false }), errno.EINVAL);
  for (const type of [command.write, command.writeZeroes, command.trim]) {
    t.equal(ask(type, 0, 0, 1, { readOnly: true }), errno.EPERM);
    t.equal(ask(type, 0, 9_999, 2, { readOnly: true }), errno.EPERM, 'before its range is judged');
  }
  for (const type of [command.read, command.cache, command.blockStatus]) {
    t.equal(ask(type, 0, 0, 1, { readOnly: true }), 0);
  }
  t.equal(ask(command.flush, 0, 0, 0, { readOnly: true }), 0);
  t.equal(ask(command.blockStatus, 0, 0, 0), errno.EINVAL);
  t.equal(ask(command.flush, 0, 0, 1), errno.EINVAL);
  t.equal(ask(command.flush, 0, 1, 0), errno.EINVAL);
  for (const type of [8, 9, 100, 65535]) t.equal(ask(type, 0, 0, 0), errno.EINVAL);
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 9 }),
      fc.integer({ min: 0, max: 0xffff }),
      fc.integer({ min: 0, max: 11_000 }),
      fc.integer({ min: 0, max: 11_000 }),
      (type, flagBits, offset, length) => {
        const result = ask(type, flagBits, offset, length);
        // whatever passes is inside the device and carries only flags that exist
        if (result !== 0) return result === errno.EINVAL || result === errno.ENOSPC;
        return offset + length <= 10_000 && (flagBits & ~15) === 0 && type <= 7;
      },
    ),
    { numRuns: 500 },
  );
});

t.test('status descriptors agree with a list of bytes', async (t) => {
  const extents = fc.array(
    fc.record({ gap: fc.constantFrom(0, 0, 0, 0, 2), length: fc.nat(9), allocated: fc.boolean() }),
    { maxLength: 12 },
  );
  const inputs = [
    extents,
    fc.nat(20),
    fc.integer({ min: 1, max: 40 }),
    fc.integer({ min: 1, max: 5 }),
  ] as const;
  fc.assert(
    fc.property(...inputs, (list, offset, length, limit) => {
      let at = 0;
      const kinds: (number | undefined)[] = [];
      const placed = list.map(({ gap, length, allocated }) => {
        at += gap;
        const extent = { offset: at, length, allocated };
        kinds.length = at;
        for (let i = 0; i < length; i++) kinds[at++] = allocated ? 0 : 3;
        return extent;
      });
      const found = statusDescriptors(placed.map(allocationExtent), offset, length, limit, 0);
      if (found.length === 0 || found.length > limit) return false;
      let position = offset;
      for (const [i, descriptor] of found.entries()) {
        if (descriptor.length === 0 || position + descriptor.length > offset + length) return false;
        if (i > 0 && found[i - 1]!.flags === descriptor.flags) return false;
        for (let b = 0; b < descriptor.length; b++, position++) {
          // where nothing is known the range counts as allocated
          if (descriptor.flags !== (kinds[position] ?? 0)) {
            return found.length === 1 && descriptor.flags === 0 && kinds[offset] === undefined;
          }
        }
      }
      return true;
    }),
    { numRuns: 1000 },
  );
  t.pass('agrees');
});

t.test('every error has an errno and an option error of the specification', async (t) => {
  const errnos: number[] = Object.values(errno);
  for (const code of errorCodes) {
    t.ok(errnos.includes(nbdErrnoOf[code]), code);
    t.ok(nbdOptionErrorOf[code] > 0x80000000, code);
  }
  t.equal(nbdErrnoOf.NO_SPACE, errno.ENOSPC);
  t.equal(nbdErrnoOf.DISK_FAILED, errno.EIO);
  t.equal(nbdErrnoOf.UNAVAILABLE, errno.ESHUTDOWN);
});
