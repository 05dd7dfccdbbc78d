import type { StorError, VolumeQos } from '@stor/protocol';
import type { BlockRequest } from '@stor/replicator';
import { FakeClock } from '@stor/runtime/testing';
import fc from 'fast-check';
import t from 'tap';
import { LaneQos } from '../src/qos/lane-qos.ts';
import type { QosVolume } from '../src/qos/lane-volume.ts';
import type { QosDevice } from '../src/qos/qos-device.ts';
import { MemoryBlockDevice } from '../src/testing/memory-block-device.ts';

const kib = 1024;

/** Time goes on while it is looked at. */
class BusyClock extends FakeClock {
  #lateMs = 0;

  override monotonicMs(): number {
    this.#lateMs += 0.02;
    return super.monotonicMs() + this.#lateMs;
  }
}

class Lane {
  readonly clock: FakeClock;
  readonly qos: LaneQos;

  constructor(clock = new FakeClock()) {
    this.clock = clock;
    this.qos = new LaneQos(clock);
  }

  volume(qos: VolumeQos, name = 'db'): { volume: QosVolume; memory: MemoryBlockDevice } {
    const facts = { volumeId: `v-${name}`, name, qos, resourceVersion: 1 };
    return { volume: this.qos.open(facts), memory: new MemoryBlockDevice(64 * kib * kib) };
  }

  device(qos: VolumeQos, name = 'db'): { device: QosDevice; memory: MemoryBlockDevice } {
    const { volume, memory } = this.volume(qos, name);
    return { device: volume.device(memory), memory };
  }
}

interface Sent extends BlockRequest {
  outcome: 'waits' | StorError | null;
  answers: number;
}

function request(offset: number, length: number, fill: number | null = null): Sent {
  const sent: Sent = {
    offset,
    length,
    bytes: fill === null ? Buffer.alloc(length) : Buffer.alloc(length, fill),
    start: 0,
    retained: fill === null,
    fua: false,
    noHole: false,
    outcome: 'waits',
    answers: 0,
    done: (error) => {
      sent.outcome = error;
      sent.answers += 1;
    },
  };
  return sent;
}

function readBack(memory: MemoryBlockDevice, offset: number): number {
  const target = Buffer.alloc(1);
  memory.readInline(offset, 1, target, 0);
  return target[0] ?? 0;
}

/** How many answers come in so long (ms), of a client that always has `depth` requests waiting. */
function countIn(lane: Lane, device: QosDevice, length: number, depth: number, ms: number): number {
  let count = 0;
  let isOver = false;
  const send = (): void => {
    const bytes = Buffer.alloc(length);
    const rest = { offset: 0, length, start: 0, retained: false, fua: false, noHole: false };
    device.write({
      ...rest,
      bytes,
      done: () => {
        count += 1;
        if (!isOver) lane.clock.endOfTurn(send);
      },
    });
  };
  for (let i = 0; i < depth; i++) send();
  lane.clock.advance(ms);
  isOver = true;
  return count;
}

t.test('a volume alone and without limits is passed through', async (t) => {
  const lane = new Lane();
  const { device, memory } = lane.device({});
  const write = request(0, 4 * kib, 7);
  device.write(write);
  t.equal(write.outcome, null, 'at once');
  t.ok(device.flow.isFree);
  t.ok(device.readInline(0, 4 * kib, Buffer.alloc(4 * kib), 0));
  t.equal(device.holeBytes(512 * kib, 4 * kib), 4 * kib);
  const limited = new Lane().device({ iops: 10 });
  t.equal(
    limited.device.holeBytes(512 * kib, 4 * kib),
    0,
    'a read of a hole counts where reads do',
  );
  memory.behaviour.delay = () => {};
  const seen: BlockRequest[] = [];
  device.target.write = (each) => seen.push(each);
  const second = request(0, 4 * kib, 8);
  device.write(second);
  t.equal(seen[0], second, 'the very request of the client');
  t.notOk(device.isFull);
});

t.test('limits are exact to 5 % over 10 s at any block size', async (t) => {
  for (const length of [4 * kib, 64 * kib, 1024 * kib]) {
    const lane = new Lane(new BusyClock());
    const { device } = lane.device({ writeBps: 20 * kib * kib });
    const fromMs = lane.clock.monotonicMs();
    const bytes = countIn(lane, device, length, 16, 10_000) * length;
    const wanted = (20 * kib * kib * (lane.clock.monotonicMs() - fromMs)) / 1_000;
    t.ok(Math.abs(bytes - wanted) <= wanted * 0.05 + length, `${bytes} of ${wanted}`);
  }
  const lane = new Lane(new BusyClock());
  const { device } = lane.device({ iops: 333 });
  const fromMs = lane.clock.monotonicMs();
  const count = countIn(lane, device, 4 * kib, 32, 10_000);
  const wanted = (333 * (lane.clock.monotonicMs() - fromMs)) / 1_000;
  t.ok(Math.abs(count - wanted) <= wanted * 0.05, `${count} of ${wanted}`);
});

t.test('a limit smaller than a request: one now and then', async (t) => {
  const lane = new Lane();
  const { device } = lane.device({ writeBps: 256 * kib });
  // four seconds' worth each
  t.equal(countIn(lane, device, 1024 * kib, 2, 19_000), 5);
});

t.test('volumes of one tenant share its limit', async (t) => {
  const lane = new Lane();
  const tenant = { name: 'acme', share: { iops: 1_000 } };
  const devices = ['a', 'b', 'c'].map((name) => lane.device({ tenant }, name).device);
  const other = lane.device({}, 'd').device;
  const counts = devices.map(() => 0);
  const keep = (index: number): void => {
    const again = (): void => {
      counts[index]! += 1;
      lane.clock.endOfTurn(() => keep(index));
    };
    const write = request(0, 4 * kib, 1);
    devices[index]!.write({ ...write, done: again });
  };
  for (const index of devices.keys()) for (let i = 0; i < 8; i++) keep(index);
  lane.clock.advance(10_000);
  const sum = counts.reduce((all, each) => all + each, 0);
  t.ok(Math.abs(sum - 10_000) <= 500, `${sum} together`);
  for (const count of counts) t.ok(Math.abs(count - sum / 3) < sum * 0.02, `${count}: a third`);
  const free = request(0, 4 * kib, 1);
  other.write(free);
  t.equal(free.outcome, null, 'who has no tenant does not wait');
  const reasons = lane.qos.reports().map(({ throttledRequests }) => throttledRequests);
  t.ok((reasons[0]?.tenant ?? 0) > 0 && reasons[0]?.limit === 0);
});

t.test('reads go on while writes wait, and a FLUSH waits for neither', async (t) => {
  const lane = new Lane();
  const { device } = lane.device({ writeIops: 1 });
  const writes = [1, 2, 3].map((fill) => request(0, 4 * kib, fill));
  for (const write of writes) device.write(write);
  t.same(
    writes.map(({ outcome }) => outcome),
    [null, 'waits', 'waits'],
  );
  const read = request(0, 4 * kib);
  device.read(read);
  t.equal(read.outcome, null);
  const flush = request(0, 0);
  device.flush(flush);
  t.equal(flush.outcome, null, 'what it is about was acknowledged before');
  t.equal(read.bytes?.[0], 1);
});

t.test('inline reads count, and are refused beyond the limit', async (t) => {
  const lane = new Lane();
  const { device, memory } = lane.device({ readIops: 10 });
  const target = Buffer.alloc(4 * kib);
  t.ok(device.readInline(0, 4 * kib, target, 0));
  t.notOk(device.readInline(0, 4 * kib, target, 0), 'the next is due in 100 ms');
  const read = request(0, 4 * kib);
  device.read(read);
  t.equal(read.outcome, 'waits');
  lane.clock.advance(101);
  t.equal(read.outcome, null);
  t.equal(memory.calls.readInline, 1);
});

t.test('what waits has its own copy of what is written', async (t) => {
  const lane = new Lane();
  const { device, memory } = lane.device({ writeIops: 10 });
  device.write(request(0, 4 * kib, 1));
  const waits = request(8 * kib, 4 * kib, 2);
  device.write(waits);
  waits.bytes?.fill(0xee);
  lane.clock.advance(200);
  t.equal(waits.outcome, null);
  t.equal(readBack(memory, 8 * kib), 2);
});

t.test('new limits hold at once, and nothing that waits is lost', async (t) => {
  const lane = new Lane();
  const { volume, memory } = lane.volume({ iops: 1 });
  const device = volume.device(memory);
  const writes = Array.from({ length: 100 }, (_, index) => request(index * 4 * kib, 4 * kib, 1));
  for (const write of writes) device.write(write);
  lane.clock.advance(1_000);
  t.equal(writes.filter(({ outcome }) => outcome === null).length, 2);
  volume.update({ iops: 100_000 }, 1);
  lane.clock.advance(20);
  t.ok(
    writes.every(({ outcome, answers }) => outcome === null && answers === 1),
    'all of them, once',
  );
  volume.update({ iops: 1 }, 0);
  t.equal(lane.qos.reports()[0]?.qos.iops, 100_000, 'an older record changes nothing');
  volume.update(undefined, 2);
  device.write(request(0, 4 * kib, 1));
  device.write(request(0, 4 * kib, 1));
  t.ok(device.flow.isFree, 'without limits it is passed through again');
});

t.test('what waits can be taken back, and then it is started nowhere', async (t) => {
  const lane = new Lane();
  const { volume, memory } = lane.volume({ iops: 1 });
  const [mine, other] = [volume.device(memory), volume.device(memory)];
  const sent = [0, 1, 2, 3].map((index) => request(index * 4 * kib, 4 * kib, index + 1));
  sent.forEach((each, index) => (index % 2 === 0 ? mine : other).write(each));
  const taken = mine.takeBack();
  t.same(
    taken.map(({ offset }) => offset),
    [8 * kib],
    'the first was started, the others are not its own',
  );
  t.equal(taken[0]?.payload[0], 3);
  lane.clock.advance(10_000);
  t.same(
    sent.map(({ outcome }) => outcome),
    [null, null, 'waits', null],
  );
  taken[0]?.startOn(memory);
  t.equal(sent[2]?.outcome, null);
  t.equal(readBack(memory, 8 * kib), 3);
});

t.test('a volume that is not served any more refuses what still waits', async (t) => {
  const lane = new Lane();
  const { volume, memory } = lane.volume({ iops: 1 });
  const device = volume.device(memory);
  const sent = [0, 1].map(() => request(0, 4 * kib, 1));
  for (const each of sent) device.write(each);
  volume.close();
  volume.close();
  t.match(sent[1]?.outcome, { code: 'UNAVAILABLE' });
  t.equal(sent[1]?.answers, 1);
  t.same(lane.qos.reports(), []);
});

t.test('memory of what waits is bounded: clients are made to wait instead', async (t) => {
  const lane = new Lane();
  const { device } = lane.device({ iops: 1 });
  t.notOk(device.isFull);
  let sent = 0;
  while (!device.isFull && sent < 1_000) {
    device.write(request(0, 1024 * kib, 1));
    sent += 1;
  }
  t.equal(sent, 9, 'one went, eight mebibytes wait');
  lane.clock.advance(1_100);
  t.notOk(device.isFull);
});

t.test('none is lost or answered twice, whatever comes between', async (t) => {
  const step = fc.oneof(
    fc.record({
      type: fc.constantFrom('read', 'write', 'trim', 'writeZeroes'),
      device: fc.integer({ min: 0, max: 3 }),
      blocks: fc.integer({ min: 1, max: 64 }),
    }),
    fc.record({ type: fc.constant('advance'), ms: fc.integer({ min: 0, max: 300 }) }),
    fc.record({ type: fc.constant('finish'), count: fc.integer({ min: 1, max: 9 }) }),
    fc.record({
      type: fc.constant('update'),
      iops: fc.constantFrom(undefined, 5, 100, 10_000),
      minIops: fc.constantFrom(undefined, 50),
      weight: fc.integer({ min: 1, max: 10_000 }),
    }),
    fc.record({ type: fc.constant('takeBack'), device: fc.integer({ min: 0, max: 3 }) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), fc.boolean(), (steps, isSlow) => {
      const lane = new Lane();
      const volumes = ['a', 'b'].map((name) => lane.volume({ bps: 1_000_000 }, name));
      const devices = [0, 1, 2, 3].map((index) => {
        const { volume, memory } = volumes[index % 2]!;
        return volume.device(memory);
      });
      const unfinished: (() => void)[] = [];
      if (isSlow) {
        for (const { memory } of volumes) {
          memory.behaviour.delay = (_operation, finish) => unfinished.push(finish);
        }
      }
      const sent: Sent[] = [];
      const back: ReturnType<QosDevice['takeBack']> = [];
      let version = 1;
      for (const each of steps) {
        if ('blocks' in each) {
          const isWrite = each.type === 'write';
          const next = request(0, each.blocks * 4 * kib, isWrite ? 1 : null);
          if (each.type === 'trim' || each.type === 'writeZeroes') next.bytes = null;
          sent.push(next);
          devices[each.device]![each.type as 'read' | 'write'](next);
        } else if ('ms' in each) lane.clock.advance(each.ms);
        else if ('count' in each) for (const finish of unfinished.splice(0, each.count)) finish();
        else if ('weight' in each) {
          const { iops, minIops, weight } = each;
          const qos = {
            weight,
            ...(iops === undefined ? {} : { iops }),
            ...(minIops === undefined ? {} : { minIops }),
          };
          volumes[0]!.volume.update(qos, ++version);
        } else back.push(...devices[each.device]!.takeBack());
      }
      for (const each of back) each.done(null);
      for (const { volume } of volumes) volume.update({}, 1_000);
      for (let rounds = 0; rounds < 2_000; rounds++) {
        lane.clock.advance(10);
        for (const finish of unfinished.splice(0)) finish();
        if (sent.every(({ answers }) => answers > 0)) break;
      }
      for (const each of sent) {
        if (each.answers !== 1) throw new Error(`answered ${each.answers} times`);
      }
      if (lane.qos.reports().some(({ queued }) => queued > 0)) throw new Error('something waits');
    }),
    { numRuns: 200 },
  );
  t.pass();
});
