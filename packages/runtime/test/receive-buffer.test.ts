import fc from 'fast-check';
import t from 'tap';
import { ReceiveBuffer, type SharedBytes } from '../src/index.ts';
import { PoisonedPool } from '../src/testing/index.ts';

const prefixBytes = 4;

interface Message {
  length: number;
  /** messages after it that arrive before it is released; null: its user copies it at once */
  keptFor: number | null;
}

interface Kept {
  memory: SharedBytes;
  start: number;
  end: number;
  fill: number;
  releaseAt: number;
}

function fillOf(message: number): number {
  return (message % 200) + 1;
}

/** What a receiver of messages does that are preceded by their length. */
class Receiver {
  readonly buffer: ReceiveBuffer;
  readonly #messages: readonly Message[];
  readonly #says: boolean;
  #kept: Kept[] = [];
  taken = 0;
  keptCount = 0;
  wrong = 0;

  constructor(messages: readonly Message[], says: boolean, pool: PoisonedPool) {
    this.#messages = messages;
    this.#says = says;
    this.buffer = new ReceiveBuffer({
      receiveBytes: 100_000,
      maxReceiveBytes: 2 * 1024 * 1024,
      pool,
    });
  }

  readonly take = (bytes: Buffer, start: number, end: number): number => {
    let at = start;
    while (end - at >= prefixBytes) {
      const length = bytes.readUInt32BE(at);
      const next = at + prefixBytes + length;
      if (next > end) {
        if (this.#says) this.buffer.expect(next - at);
        break;
      }
      this.#message(bytes, at + prefixBytes, next);
      at = next;
    }
    return at - start;
  };

  #message(bytes: Buffer, start: number, end: number): void {
    const fill = fillOf(this.taken);
    const { keptFor } = this.#messages[this.taken] ?? { keptFor: null };
    this.#look(bytes, start, end, fill);
    const memory = keptFor === null ? null : this.buffer.keep(end - start);
    if (memory) {
      this.keptCount += 1;
      const releaseAt = this.taken + (keptFor ?? 0);
      this.#kept.push({ memory, start, end, fill, releaseAt });
    }
    this.taken += 1;
    this.release(this.taken);
  }

  release(now: number): void {
    const due = this.#kept.filter(({ releaseAt }) => releaseAt <= now);
    this.#kept = this.#kept.filter(({ releaseAt }) => releaseAt > now);
    for (const { memory, start, end, fill } of due) {
      this.#look(memory.bytes, start, end, fill);
      memory.release();
    }
  }

  #look(bytes: Buffer, start: number, end: number, fill: number): void {
    if (!bytes.subarray(start, end).equals(Buffer.alloc(end - start, fill))) this.wrong += 1;
  }
}

const message = fc.record({
  length: fc.oneof(
    fc.integer({ min: 0, max: 5_000 }),
    fc.integer({ min: 60_000, max: 70_000 }),
    fc.constant(300_000),
    fc.integer({ min: 90_000, max: 1_000_000 }),
  ),
  keptFor: fc.option(fc.integer({ min: 1, max: 12 })),
});

t.test('messages arrive whole, and stay as they are for as long as they are kept', (t) => {
  let kept = 0;
  fc.assert(
    fc.property(
      fc.array(message, { minLength: 1, maxLength: 24 }),
      fc.array(fc.integer({ min: 1, max: 250_000 }), { minLength: 1, maxLength: 20 }),
      fc.boolean(),
      (messages, reads, says) => {
        const stream = Buffer.concat(
          messages.map(({ length }, i) => {
            const bytes = Buffer.alloc(prefixBytes + length, fillOf(i));
            bytes.writeUInt32BE(length);
            return bytes;
          }),
        );
        const receiver = new Receiver(messages, says, new PoisonedPool(8 * 1024 * 1024));
        for (let at = 0, read = 0; at < stream.length; read += 1) {
          const room = receiver.buffer.room();
          if (!room) throw new Error('no room');
          const length = Math.min(room.length, reads[read % reads.length] ?? 1, stream.length - at);
          stream.copy(room, 0, at, at + length);
          at += length;
          receiver.buffer.filled(length, receiver.take);
        }
        receiver.release(Infinity);
        kept += receiver.keptCount;
        return receiver.wrong === 0 && receiver.taken === messages.length;
      },
    ),
    { numRuns: 150 },
  );
  t.ok(kept > 20, 'memory was kept');
  t.end();
});

t.test('a stream of large messages that are kept is never copied', (t) => {
  const messages = Array.from({ length: 20 }, () => ({ length: 1_000_000, keptFor: 3 }));
  const receiver = new Receiver(messages, true, new PoisonedPool(16 * 1024 * 1024));
  const bytes = Buffer.alloc(prefixBytes + 1_000_000);
  let moved = 0;
  for (let i = 0; i < messages.length; i++) {
    bytes.fill(fillOf(i));
    bytes.writeUInt32BE(1_000_000);
    let whereBefore: ArrayBufferLike | null = null;
    for (let at = 0; at < bytes.length;) {
      const room = receiver.buffer.room();
      if (!room) throw new Error('no room');
      if (whereBefore && room.buffer !== whereBefore) moved += 1;
      whereBefore = room.buffer;
      const length = Math.min(room.length, 200_000, bytes.length - at);
      bytes.copy(room, 0, at, at + length);
      at += length;
      receiver.buffer.filled(length, receiver.take);
    }
  }
  receiver.release(Infinity);
  t.equal(receiver.taken, messages.length);
  t.equal(receiver.keptCount, messages.length);
  t.equal(receiver.wrong, 0);
  t.equal(moved, 1, 'only the first had to be moved to memory of its own');
  t.end();
});

t.test('one small message is no reason to give memory away', (t) => {
  const pool = new PoisonedPool(1024 * 1024);
  const buffer = new ReceiveBuffer({ receiveBytes: 1024 * 1024, maxReceiveBytes: 4_194_304, pool });
  buffer.room();
  let kept: SharedBytes | null = null;
  buffer.filled(100_000, (_bytes, start, end) => {
    kept = buffer.keep(end - start) ?? buffer.keep(4096);
    return end - start;
  });
  t.equal(kept, null);
  t.end();
});

t.test('memory is released once by each that holds it', (t) => {
  const pool = new PoisonedPool(1024 * 1024);
  const buffer = new ReceiveBuffer({ receiveBytes: 128 * 1024, maxReceiveBytes: 4_194_304, pool });
  buffer.room();
  const kept: SharedBytes[] = [];
  buffer.filled(100_000, (_bytes, start, end) => {
    const memory = buffer.keep(end - start);
    if (memory) kept.push(memory, memory.hold());
    return end - start;
  });
  t.equal(kept.length, 2);
  kept[0]?.release();
  t.equal(pool.spareBytes, 0, 'somebody holds it');
  kept[1]?.release();
  t.ok(pool.spareBytes > 0, 'given back');
  t.throws(() => kept[1]?.release(), /once too often/);
  t.throws(() => kept[1]?.hold(), /given away/);
  t.end();
});

t.test('a buffer at rest gives its memory back, and receives as before', (t) => {
  const pool = new PoisonedPool(1024 * 1024);
  const buffer = new ReceiveBuffer({ receiveBytes: 1024 * 1024, maxReceiveBytes: 4_194_304, pool });
  const all = (_bytes: Buffer, start: number, end: number): number => end - start;
  const fill = (value: number): Buffer => {
    const room = buffer.room();
    if (!room) throw new Error('no room');
    return room.fill(value);
  };
  const promised = fill(7);
  buffer.filled(promised.length, () => 0);
  t.equal(buffer.rest(), false, 'a message that is not whole is kept');
  t.equal(promised.at(-1), 7);
  buffer.filled(0, all);
  t.equal(buffer.rest(), true);
  const pages = promised.subarray(4096, -4096);
  t.equal(pages.compare(Buffer.alloc(pages.length)), 0, 'nothing is behind it any more');
  let taken = 0;
  promised.fill(9);
  buffer.filled(promised.length, (bytes, start, end) => {
    taken = bytes.subarray(start, end).filter((byte) => byte === 9).length;
    return end - start;
  });
  t.equal(taken, promised.length, 'the room that was promised before is filled');
  const large = fill(5);
  buffer.filled(large.length, (_bytes, start, end) => {
    const kept = buffer.keep(large.length);
    t.ok(kept);
    t.equal(buffer.rest(), false, 'somebody uses it');
    kept?.release();
    return end - start;
  });
  t.end();
});
