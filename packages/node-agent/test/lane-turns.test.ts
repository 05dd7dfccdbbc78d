import { defaultQosClasses, type BackgroundClass, type QosClass } from '@stor/protocol';
import type { BackgroundTurn } from '@stor/replicator';
import { FakeClock } from '@stor/runtime/testing';
import t from 'tap';
import { LaneQos } from '../src/qos/lane-qos.ts';
import { MemoryBlockDevice } from '../src/testing/memory-block-device.ts';

const kib = 1024;
const chunk = 256 * kib;

class Lane {
  readonly clock = new FakeClock();
  readonly qos = new LaneQos(this.clock);
  begun = 0;

  /** A piece that is over as soon as it begins, and another after it, for ever. */
  work(ofClass: BackgroundClass): void {
    this.qos.turns.ask(
      ofClass,
      chunk,
      () => true,
      (turn) => {
        this.begun += 1;
        turn.end();
        this.clock.endOfTurn(() => {
          this.work(ofClass);
        });
      },
    );
  }

  set(change: Pick<QosClass, 'name'> & Partial<QosClass>, lanes = 1): void {
    const classes = defaultQosClasses.map((each) =>
      each.name === change.name ? { ...each, ...change } : each,
    );
    this.qos.turns.update(classes, lanes);
  }

  report(ofClass: BackgroundClass) {
    const report = this.qos.turns.reports().find((each) => each.class === ofClass);
    if (!report) throw new Error(`nothing of ${ofClass}`);
    return report;
  }
}

t.test('a class keeps its limits, which may change at any time', async (t) => {
  const lane = new Lane();
  lane.set({ name: 'rebuild', bps: 10 * chunk });
  for (let i = 0; i < 4; i++) lane.work('rebuild');
  lane.clock.advance(10_000);
  t.ok(Math.abs(lane.begun - 100) <= 3, `${lane.begun} chunks in 10 s, 10 in a second`);
  lane.set({ name: 'rebuild', iops: 50 }, 2);
  const before = lane.begun;
  lane.clock.advance(10_000);
  t.ok(Math.abs(lane.begun - before - 250) <= 4, 'half of 50 on one lane of two');
  const { bytes, operations, throttledRequests, throttledMs, queued } = lane.report('rebuild');
  t.same([operations, bytes], [lane.begun, lane.begun * chunk]);
  t.ok(throttledRequests.limit > 300 && throttledRequests.tenant === 0);
  t.ok(throttledMs.limit > 4 * 19_000, 'four waited nearly all the time');
  t.equal(queued, 4);
});

t.test('limits of one class are not those of another, nor of clients', async (t) => {
  const lane = new Lane();
  lane.set({ name: 'scrub', bps: 4_096 });
  lane.work('scrub');
  lane.clock.advance(1_000);
  const scrubbed = lane.begun;
  let isBegun = false;
  lane.qos.turns.ask(
    'resync',
    chunk,
    () => true,
    () => (isBegun = true),
  );
  t.ok(isBegun);
  const facts = { volumeId: 'v', name: 'db', qos: {}, resourceVersion: 1 };
  const device = lane.qos.open(facts).device(new MemoryBlockDevice(2 ** 20));
  let answers = 0;
  for (let i = 0; i < 64; i++) {
    const rest = { start: 0, retained: true, fua: false, noHole: false };
    const done = (): void => void (answers += 1);
    device.write({ offset: 0, length: 4_096, bytes: Buffer.alloc(4_096), ...rest, done });
    lane.clock.advance(1);
  }
  t.equal(answers, 64);
  t.equal(lane.begun, scrubbed);
});

t.test('what must not wait is counted, and others wait for it', async (t) => {
  const lane = new Lane();
  lane.set({ name: 'rebuild', bps: chunk });
  const turns: BackgroundTurn[] = [];
  for (let i = 0; i < 5; i++) turns.push(lane.qos.turns.take('rebuild', chunk));
  for (const turn of turns) {
    turn.end();
    turn.end();
  }
  lane.work('rebuild');
  lane.clock.advance(4_000);
  t.equal(lane.begun, 0);
  lane.clock.advance(1_500);
  t.ok(lane.begun >= 1);
});

t.test('who has given up costs nothing, and nothing goes on a lane that is closed', async (t) => {
  const lane = new Lane();
  lane.set({ name: 'resync', iops: 1 });
  lane.qos.turns.take('resync', chunk).end();
  let isWanted = true;
  let begun = 0;
  const begin = (turn: BackgroundTurn): void => {
    begun += 1;
    turn.end();
  };
  lane.qos.turns.ask('resync', chunk, () => isWanted, begin);
  lane.qos.turns.ask('resync', chunk, () => true, begin);
  isWanted = false;
  lane.clock.advance(1_100);
  t.equal(begun, 1, 'the second one');
  lane.qos.turns.ask('resync', chunk, () => true, begin);
  lane.qos.close();
  lane.clock.advance(60_000);
  t.equal(begun, 1);
});

t.test('the shares of a class beside a client change with its weight', async (t) => {
  const share = (weight: number): number => {
    const lane = new Lane();
    lane.set({ name: 'rebuild', weight });
    const memory = new MemoryBlockDevice(2 ** 20);
    const device = lane.qos
      .open({ volumeId: 'v', name: 'db', qos: {}, resourceVersion: 1 })
      .device(memory);
    // one thing at a time, whoever it is of
    const busy: (() => void)[] = [];
    memory.behaviour.delay = (_operation, finish) => busy.push(finish);
    let written = 0;
    const send = (): void => {
      const rest = { start: 0, retained: true, fua: false, noHole: false };
      const done = (): void => {
        written += 1;
        send();
      };
      device.write({ offset: 0, length: 4_096, bytes: Buffer.alloc(4_096), ...rest, done });
    };
    let rebuilt = 0;
    const work = (): void => {
      lane.qos.turns.ask(
        'rebuild',
        chunk,
        () => true,
        (turn) => {
          rebuilt += 1;
          busy.push(() => {
            turn.end();
            work();
          });
        },
      );
    };
    for (let i = 0; i < 4; i++) work();
    for (let i = 0; i < 64; i++) send();
    for (let ms = 0; ms < 4_000; ms++) {
      for (const finish of busy.splice(0, 4)) finish();
      lane.clock.advance(1);
    }
    return rebuilt / written;
  };
  const [low, high] = [share(10), share(200)];
  t.ok(high > low * 3, `more for more weight: ${low}, ${high}`);
});
