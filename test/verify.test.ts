import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import { AckLog, ackLogKinds, readAckLog } from '../benchmarks/src/verify/ack-log.ts';
import { countAcknowledged, replayAckLog } from '../benchmarks/src/verify/ack-history.ts';
import { ModelComparer } from '../benchmarks/src/verify/compare.ts';
import { recogniseSector, sectorBytes, stampSectors } from '../benchmarks/src/verify/stamp.ts';
import { verifyImage } from '../benchmarks/src/verify/verify-volume.ts';
import { WorkloadPicker } from '../benchmarks/src/verify/workload.ts';
import { WriteModel } from '../benchmarks/src/verify/write-model.ts';

/** The definition, by brute force: every write that no later acknowledged write supersedes. */
class StupidModel {
  readonly #writes: {
    id: number;
    first: number;
    count: number;
    issued: number;
    ended: number;
    acknowledged: boolean;
  }[] = [];
  #order = 0;
  issue(id: number, first: number, count: number): void {
    this.#order += 1;
    this.#writes.push({
      id,
      first,
      count,
      issued: this.#order,
      ended: Infinity,
      acknowledged: false,
    });
  }
  end(id: number, acknowledged: boolean): void {
    this.#order += 1;
    for (const write of this.#writes) {
      if (write.id === id) Object.assign(write, { ended: this.#order, acknowledged });
    }
  }
  candidates(sector: number): number[] {
    const here = this.#writes.filter((w) => w.first <= sector && sector < w.first + w.count);
    const start = { id: 0, issued: 0, ended: 0, acknowledged: true };
    return [start, ...here]
      .filter((w) => !here.some((later) => later.acknowledged && w.ended < later.issued))
      .map((w) => w.id);
  }
}

t.test('the model allows what the definition allows', async (t) => {
  const step = fc.oneof(
    {
      weight: 3,
      arbitrary: fc.record({
        kind: fc.constant('issue'),
        first: fc.nat(7),
        count: fc.integer({ min: 1, max: 4 }),
        zero: fc.boolean(),
      }),
    },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('acknowledge'), pick: fc.nat(99) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('giveUp'), pick: fc.nat(99) }) },
  );
  const sameAsDefinition = (): void =>
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const sectors = 11;
        const model = new WriteModel(sectors);
        const stupid = new StupidModel();
        const open: number[] = [];
        let sequence = 0;
        for (const step of steps) {
          if ('first' in step) {
            sequence += 1;
            const id = step.zero ? -sequence : sequence;
            model.issue(id, step.first, step.count);
            stupid.issue(id, step.first, step.count);
            open.push(id);
          } else {
            const [id] = open.splice(step.pick % Math.max(1, open.length), 1);
            if (id === undefined) continue;
            if (step.kind === 'acknowledge') model.acknowledge(id);
            else model.giveUp(id);
            stupid.end(id, step.kind === 'acknowledge');
          }
          for (let sector = 0; sector < sectors; sector += 1) {
            const got = [...model.candidates(sector)].sort((a, b) => a - b);
            const want = stupid.candidates(sector).sort((a, b) => a - b);
            if (got.join() !== want.join())
              throw new Error(`sector ${sector}: ${got.join()} not ${want.join()}`);
          }
        }
        for (const id of open) model.acknowledge(id);
        if (model.recordCount > sequence) throw new Error('records are not forgotten');
      }),
      { numRuns: 2_000 },
    );
  t.doesNotThrow(sameAsDefinition);
});

t.test('a write alone is forgotten once it is decided', async (t) => {
  const model = new WriteModel(8);
  for (let id = 1; id <= 1_000; id += 1) {
    model.issue(id, id % 8, 1);
    model.acknowledge(id);
  }
  t.equal(model.recordCount, 0);
  t.equal(model.undecidedSectors, 0);
  t.equal(model.writtenSectors(), 8);
});

t.test('what a reader has seen cannot be undone', async (t) => {
  const model = new WriteModel(1);
  model.issue(1, 0, 1);
  model.giveUp(1);
  t.same(model.candidates(0), [0, 1]);
  model.observe(0, 1);
  t.same(model.candidates(0), [1]);
});

t.test('a stamp tells its write, and any flipped bit shows', async (t) => {
  const bytes = Buffer.alloc(4 * sectorBytes);
  stampSectors(bytes, 0, 100, 4, 2 ** 40 + 7, 9);
  t.same(recogniseSector(bytes, 2 * sectorBytes, 102, 9), { kind: 'write', sequence: 2 ** 40 + 7 });
  t.equal(recogniseSector(bytes, 2 * sectorBytes, 103, 9).kind, 'garbage', 'wrong place');
  t.equal(recogniseSector(bytes, 2 * sectorBytes, 102, 8).kind, 'garbage', 'wrong run');
  for (let at = 0; at < sectorBytes; at += 1) {
    bytes.writeUInt8(bytes.readUInt8(at) ^ 0x10, at);
    if (recogniseSector(bytes, 0, 100, 9).kind !== 'garbage') t.fail(`flip at ${at} not seen`);
    bytes.writeUInt8(bytes.readUInt8(at) ^ 0x10, at);
  }
  t.same(recogniseSector(Buffer.alloc(sectorBytes), 0, 100, 9), { kind: 'zero' });
});

t.test('requests stay in their range and are the same for a seed', async (t) => {
  const range = { offset: 8 * 4096, length: 1024 * 1024 };
  const first = new WorkloadPicker(5, range.offset, range.length);
  const second = new WorkloadPicker(5, range.offset, range.length);
  let zeros = 0;
  let small = 0;
  const end = range.offset + range.length;
  let strayed = 0;
  let differing = 0;
  for (let index = 0; index < 20_000; index += 1) {
    const request = first.next();
    if (JSON.stringify(second.next()) !== JSON.stringify(request)) differing += 1;
    if (request.offset < range.offset || request.offset + request.length > end) strayed += 1;
    if (request.zero) zeros += 1;
    if (request.length % 4096 !== 0) small += 1;
  }
  t.same({ strayed, differing }, { strayed: 0, differing: 0 });
  t.ok(zeros > 100 && small > 100, `zeros ${zeros}, unaligned ${small}`);
});

/** A log and the image that a right store would hold after it. */
function writtenImage(dir: string): { logPath: string; imagePath: string; image: Buffer } {
  const logPath = join(dir, 'acks.log');
  const imagePath = join(dir, 'image');
  const length = 1024 * 1024;
  const image = Buffer.alloc(length);
  const log = new AckLog(logPath);
  log.append(ackLogKinds.begin, 3, 0, length);
  const picker = new WorkloadPicker(3, 0, length);
  for (let sequence = 1; sequence <= 500; sequence += 1) {
    const { offset, length: bytes, zero } = picker.next();
    log.append(zero ? ackLogKinds.zero : ackLogKinds.write, sequence, offset, bytes);
    if (zero) image.fill(0, offset, offset + bytes);
    else stampSectors(image, offset, offset / sectorBytes, bytes / sectorBytes, sequence, 3);
    if (sequence === 300) log.append(ackLogKinds.flushSent, 0, 0, 0);
    if (sequence === 310) log.append(ackLogKinds.flushed, 0, 0, 0);
    log.append(ackLogKinds.acknowledged, sequence, 0, 0);
  }
  log.close();
  writeFileSync(imagePath, image);
  return { logPath, imagePath, image };
}

t.test('an image is compared with the log', async (t) => {
  const { logPath, imagePath, image } = writtenImage(t.testdir());
  const right = await verifyImage(logPath, imagePath);
  t.match(right, { wrong: 0, torn: 0, sectors: 2048, acknowledged: 500 });
  t.equal(right.acknowledgedSinceFlush, 201, 'counted from when the FLUSH was sent');
  t.ok(right.stamped > 500);
  t.equal(countAcknowledged(readAckLog(logPath)), 500);

  // Negative controls: a lost write, a stale one, a flipped bit.
  const history = replayAckLog(readAckLog(logPath));
  const at =
    [...Array(2048).keys()].find((sector) => (history.model.candidates(sector)[0] ?? 0) > 0) ?? 0;
  const broken = Buffer.from(image);
  broken.fill(0, at * sectorBytes, (at + 1) * sectorBytes);
  writeFileSync(imagePath, broken);
  const lost = await verifyImage(logPath, imagePath);
  t.equal(lost.wrong, 1);
  t.match(lost.problems[0], /holds zeros; allowed: write \d+/);
  const flipped = Buffer.from(image);
  flipped.writeUInt8(flipped.readUInt8(at * sectorBytes + 200) ^ 1, at * sectorBytes + 200);
  writeFileSync(imagePath, flipped);
  t.equal((await verifyImage(logPath, imagePath)).wrong, 1);
});

t.test('a block that is half old and half new is torn', async (t) => {
  const records = [
    { kind: ackLogKinds.begin, sequence: 1, offset: 0, length: 4096, timeMs: 0 },
    { kind: ackLogKinds.write, sequence: 1, offset: 0, length: 4096, timeMs: 0 },
    { kind: ackLogKinds.acknowledged, sequence: 1, offset: 0, length: 0, timeMs: 0 },
    { kind: ackLogKinds.write, sequence: 2, offset: 0, length: 4096, timeMs: 0 },
  ];
  const image = (newSectors: number): Buffer => {
    const bytes = Buffer.alloc(4096);
    stampSectors(bytes, 0, 0, 8, 1, 1);
    stampSectors(bytes, 0, 0, newSectors, 2, 1);
    return bytes;
  };
  for (const [newSectors, torn] of [
    [0, 0],
    [3, 1],
    [8, 0],
  ] as const) {
    const comparer = new ModelComparer(replayAckLog(records));
    comparer.add(0, image(newSectors));
    t.match(comparer.result, { wrong: 0, torn }, `${newSectors} sectors of the new write`);
  }
});

t.test('zeros of unknown origin do not make a block torn', async (t) => {
  const records = [
    { kind: ackLogKinds.begin, sequence: 1, offset: 0, length: 4096, timeMs: 0 },
    { kind: ackLogKinds.write, sequence: 1, offset: 0, length: 1024, timeMs: 0 },
    { kind: ackLogKinds.acknowledged, sequence: 1, offset: 0, length: 0, timeMs: 0 },
    { kind: ackLogKinds.zero, sequence: 2, offset: 0, length: 4096, timeMs: 0 },
  ];
  // The zeros behind the first kilobyte may be the ones from the beginning.
  const bytes = Buffer.alloc(4096);
  stampSectors(bytes, 0, 0, 2, 1, 1);
  const comparer = new ModelComparer(replayAckLog(records));
  comparer.add(0, bytes);
  t.match(comparer.result, { wrong: 0, torn: 0 });
});

t.test('a part of an old block under a write in flight is not torn', async (t) => {
  const records = [
    { kind: ackLogKinds.begin, sequence: 1, offset: 0, length: 4096, timeMs: 0 },
    { kind: ackLogKinds.write, sequence: 1, offset: 0, length: 4096, timeMs: 0 },
    { kind: ackLogKinds.acknowledged, sequence: 1, offset: 0, length: 0, timeMs: 0 },
    { kind: ackLogKinds.write, sequence: 2, offset: 0, length: 1024, timeMs: 0 },
  ];
  const bytes = Buffer.alloc(4096);
  stampSectors(bytes, 0, 0, 8, 1, 1);
  stampSectors(bytes, 0, 0, 2, 2, 1);
  const comparer = new ModelComparer(replayAckLog(records));
  comparer.add(0, bytes);
  t.match(comparer.result, { wrong: 0, torn: 0 });
});
