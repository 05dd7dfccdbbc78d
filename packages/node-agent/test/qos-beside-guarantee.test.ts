import { StorError } from '@stor/protocol';
import type { BlockRequest } from '@stor/replicator';
import { FakeClock } from '@stor/runtime/testing';
import fc from 'fast-check';
import t from 'tap';
import { LaneQos } from '../src/qos/lane-qos.ts';
import type { QosVolume } from '../src/qos/lane-volume.ts';
import type { QosDevice } from '../src/qos/qos-device.ts';
import { MemoryBlockDevice } from '../src/testing/memory-block-device.ts';

const kib = 1024;
const mib = 1024 * kib;

interface Sent extends BlockRequest {
  answers: (StorError | null)[];
}

function request(offset: number, bytes: Buffer, retained = false): Sent {
  const answers: (StorError | null)[] = [];
  const done = (error: StorError | null): void => void answers.push(error);
  const facts = { start: 0, retained, fua: true, noHole: false };
  return { ...facts, offset, length: bytes.length, bytes, answers, done };
}

/** A loud volume beside one with a guarantee, which has just asked for something. */
class Pair {
  readonly clock = new FakeClock();
  readonly qos = new LaneQos(this.clock);
  readonly memory = new MemoryBlockDevice(4 * mib);
  readonly volume: QosVolume;
  readonly loud: QosDevice;
  readonly sure: QosDevice;
  /** lengths and places of what reached the loud volume's device, and what ends each */
  readonly parts: { offset: number; length: number; fua: boolean }[] = [];
  readonly unfinished: (() => void)[] = [];

  constructor() {
    const open = (name: string, qos: object): QosVolume =>
      this.qos.open({ volumeId: `v-${name}`, name, qos, resourceVersion: 1 });
    this.volume = open('loud', {});
    this.sure = open('sure', { minIops: 1_000 }).device(new MemoryBlockDevice(mib));
    const { memory } = this;
    for (const kind of ['read', 'write'] as const) {
      const run = memory[kind].bind(memory);
      memory[kind] = (each: BlockRequest) => {
        const { offset, length, fua } = each;
        this.parts.push({ offset, length, fua });
        run(each);
      };
    }
    memory.behaviour.delay = (_operation, finish) => this.unfinished.push(finish);
    this.loud = this.volume.device(memory);
    this.touch();
  }

  /** The volume with the guarantee goes on using the lane. */
  touch(): void {
    this.sure.write(request(0, Buffer.alloc(4 * kib)));
  }

  finish(count = Infinity): void {
    for (const each of this.unfinished.splice(0, count)) each();
    this.clock.advance(1);
  }

  finishAll(): void {
    while (this.unfinished.length > 0) this.finish();
  }

  content(offset: number, length: number): Buffer {
    const target = Buffer.alloc(length);
    const { delay } = this.memory.behaviour;
    this.memory.behaviour.delay = null;
    this.memory.readInline(offset, length, target, 0);
    this.memory.behaviour.delay = delay;
    return target;
  }
}

const numbered = (length: number): Buffer =>
  Buffer.alloc(length).map((_, at) => (at >> 9) % 251) as Buffer;

t.test('a large request goes in parts beside a volume with a guarantee', async (t) => {
  const pair = new Pair();
  const bytes = numbered(mib);
  const write = request(4 * kib, bytes);
  pair.loud.write(write);
  t.same(pair.parts, [{ offset: 4 * kib, length: 60 * kib, fua: true }]);
  const wanted = Buffer.from(bytes);
  bytes.fill(0xee);
  pair.finish();
  t.equal(pair.parts.length, 2, 'one after the other');
  t.same(pair.parts[1], { offset: 64 * kib, length: 64 * kib, fua: true });
  t.same(write.answers, []);
  pair.finishAll();
  t.same(write.answers, [null]);
  t.ok(
    pair.parts.every(({ length }) => length <= 64 * kib),
    'all of them short',
  );
  t.ok(pair.content(4 * kib, mib).equals(wanted), 'with its own copy of what is written');
  const read = request(4 * kib, Buffer.alloc(mib), true);
  pair.touch();
  pair.loud.read(read);
  pair.finishAll();
  t.same(read.answers, [null]);
  t.ok(read.bytes && Buffer.from(read.bytes).equals(wanted));
});

t.test('it is whole again when the other volume rests', async (t) => {
  const pair = new Pair();
  pair.loud.write(request(0, Buffer.alloc(mib)));
  pair.clock.advance(1_000);
  pair.finish();
  // somebody must look who is still there
  pair.loud.write(request(mib, Buffer.alloc(4 * kib)));
  pair.finishAll();
  pair.parts.length = 0;
  pair.loud.write(request(0, Buffer.alloc(mib)));
  t.same(
    pair.parts.map(({ length }) => length),
    [mib],
  );
});

t.test('an error of a part ends the request', async (t) => {
  const pair = new Pair();
  const write = request(0, Buffer.alloc(mib));
  pair.loud.write(write);
  pair.memory.behaviour.fail = () => new StorError('UNAVAILABLE', 'the disk is gone');
  pair.finishAll();
  t.equal(pair.parts.length, 2, 'nothing after the one that failed');
  t.match(write.answers, [{ message: 'the disk is gone' }]);
  t.equal(write.answers.length, 1);
});

t.test('it counts once against limits', async (t) => {
  const pair = new Pair();
  pair.volume.update({ iops: 1, bps: mib }, 2);
  const first = request(0, Buffer.alloc(mib));
  pair.loud.write(first);
  pair.finishAll();
  t.same(first.answers, [null], 'what follows the first part waits for no tokens');
  const second = request(0, Buffer.alloc(4 * kib));
  pair.touch();
  pair.loud.write(second);
  t.equal(pair.unfinished.length, 0);
  const report = pair.qos.reports().find(({ name }) => name === 'loud');
  t.equal(report?.throttledRequests.limit, 1);
});

t.test('a volume that is not served any more begins no further part', async (t) => {
  const pair = new Pair();
  const write = request(0, Buffer.alloc(mib));
  pair.loud.write(write);
  pair.volume.close();
  t.same(write.answers, [], 'a part is under way');
  pair.finishAll();
  t.equal(write.answers.length, 1);
  t.match(write.answers[0], { code: 'UNAVAILABLE' });
  t.equal(pair.parts.length, 1);
});

t.test('what has not begun can be taken back, and the client is answered once', async (t) => {
  for (const isQueued of [false, true]) {
    const pair = new Pair();
    const bytes = numbered(mib);
    const wanted = Buffer.from(bytes);
    const write = request(0, bytes);
    pair.loud.write(write);
    bytes.fill(0xee);
    if (isQueued) {
      // others have the room, so the second part waits
      const others = pair.qos.open({ volumeId: 'v-o', name: 'o', qos: {}, resourceVersion: 1 });
      const device = others.device(pair.memory);
      for (let at = 0; at < 64; at++) device.write(request(2 * mib, Buffer.alloc(60 * kib)));
      pair.touch();
    }
    const [rest, ...more] = pair.loud.takeBack();
    t.same(more, []);
    t.same([rest?.offset, rest?.length], [64 * kib, mib - 64 * kib]);
    if (!isQueued) pair.finishAll();
    t.same(write.answers, [], 'one part is done, the other one has not begun');
    rest?.startOn(pair.memory);
    pair.finishAll();
    t.same(write.answers, [null]);
    t.ok(pair.content(0, mib).equals(wanted));
  }
});

t.test(
  'little of a loud volume waits beside a guarantee, and its clients wait instead',
  async (t) => {
    const pair = new Pair();
    let sent = 0;
    while (!pair.loud.isFull && sent < 1_000) {
      pair.loud.write(request(0, Buffer.alloc(4 * kib)));
      sent += 1;
    }
    t.ok(sent < 100, `${sent} until it is full`);
    const alone = new LaneQos(new FakeClock());
    const facts = { volumeId: 'v', name: 'v', qos: { iops: 1 }, resourceVersion: 1 };
    const device = alone.open(facts).device(new MemoryBlockDevice(mib));
    for (let at = 0; at < 100; at++) device.write(request(0, Buffer.alloc(4 * kib)));
    t.notOk(device.isFull, 'where nobody has a guarantee only memory is bounded');
  },
);

t.test('parts of requests are never lost, doubled or mixed', async (t) => {
  const step = fc.oneof(
    fc.record({ at: fc.nat({ max: 15 }), blocks: fc.integer({ min: 1, max: 256 }) }),
    fc.record({ finish: fc.integer({ min: 1, max: 5 }) }),
    fc.record({ ms: fc.nat({ max: 200 }) }),
    fc.constant({ type: 'touch' as const }),
    fc.constant({ type: 'take-back' as const }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const pair = new Pair();
      const sent: { request: Sent; wanted: Buffer }[] = [];
      let fill = 0;
      for (const each of steps) {
        if ('blocks' in each) {
          // each has its own place: what overlaps while under way has no order
          const bytes = Buffer.alloc(each.blocks * kib, ++fill % 256);
          const offset = (sent.length % 4) * mib;
          if (sent.slice(-4).some(({ request: r }) => r.offset === offset && !r.answers.length)) {
            continue;
          }
          const next = { request: request(offset, bytes), wanted: Buffer.from(bytes) };
          sent.push(next);
          pair.loud.write(next.request);
          bytes.fill(0xee);
        } else if ('finish' in each) pair.finish(each.finish);
        else if ('ms' in each) pair.clock.advance(each.ms);
        else if (each.type === 'touch') pair.touch();
        else {
          const back = pair.loud.takeBack();
          // as at a handover: what was begun ends before anything goes on elsewhere
          pair.finishAll();
          for (const kept of back) kept.startOn(pair.loud);
        }
      }
      for (let round = 0; round < 200; round++) pair.finish();
      for (const { request: each } of sent) {
        if (each.answers.length !== 1 || each.answers[0] !== null)
          throw new Error('not answered once');
      }
      for (const { request: each, wanted } of sent.slice(-4)) {
        if (!pair.content(each.offset, each.length).equals(wanted)) throw new Error('other bytes');
      }
    }),
    { numRuns: 150 },
  );
  t.pass();
});

/** Time passes within a turn of the event loop, and a turn ends when the test says so. */
class TurnClock extends FakeClock {
  spentMs = 0;
  readonly #ends: (() => void)[] = [];

  override monotonicMs(): number {
    return super.monotonicMs() + this.spentMs;
  }

  override endOfTurn(fn: () => void): void {
    this.#ends.push(fn);
  }

  /** False when nothing waited for it. */
  endTurn(): boolean {
    const ends = this.#ends.splice(0);
    for (const fn of ends) fn();
    return ends.length > 0;
  }
}

t.test('of others a turn of the event loop takes up little beside a guarantee', async (t) => {
  for (const qosOfSure of [{ minIops: 1_000 }, {}]) {
    const clock = new TurnClock();
    const qos = new LaneQos(clock);
    const device = (name: string, given: object): QosDevice => {
      const memory = new MemoryBlockDevice(mib);
      const write = memory.write.bind(memory);
      memory.write = (each) => {
        clock.spentMs += 0.02;
        write(each);
      };
      const facts = { volumeId: `v-${name}`, name, qos: given, resourceVersion: 1 };
      return qos.open(facts).device(memory);
    };
    const sure = device('sure', qosOfSure);
    const loud = device('loud', {});
    sure.write(request(0, Buffer.alloc(4 * kib)));
    const sent = Array.from({ length: 20 }, (_, at) => request(at * kib, Buffer.alloc(kib, at)));
    for (const each of sent) loud.write(each);
    const answered = (): number => sent.filter(({ answers }) => answers.length > 0).length;
    if (qosOfSure.minIops === undefined) {
      t.equal(answered(), 20, 'nobody is waited for where nobody has a guarantee');
      continue;
    }
    t.ok(answered() > 0 && answered() < 5, `${answered()} in the first turn`);
    const target = Buffer.alloc(kib);
    t.notOk(loud.readInline(0, kib, target, 0), 'nor a read');
    t.ok(sure.readInline(0, kib, target, 0));
    const mine = request(0, Buffer.alloc(4 * kib));
    sure.write(mine);
    t.same(mine.answers, [null], 'the volume with the guarantee waits for nothing');
    for (let seen = answered(); clock.endTurn(); seen = answered()) {
      t.ok(answered() - seen < 5, 'nor later ones');
    }
    t.equal(answered(), 20, 'all go, turn after turn');
    t.ok(sent.every(({ answers }) => answers.length === 1));
  }
});
