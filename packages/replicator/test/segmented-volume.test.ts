import { StorError, defaultPolicy, type AttachmentGrant } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';

import { NoSnapshots } from '@stor/replicator/testing';
import type { BlockRequest, Extent } from '../src/block-device.ts';
import { SegmentedVolume, type SegmentPrimary } from '../src/primary/segmented-volume.ts';

const segmentBytes = 64;
const sizeBytes = 5 * segmentBytes + 24;

/** A segment in memory whose answers come when the test says, in any order; it may lose power. */
class FakeSegment extends NoSnapshots implements SegmentPrimary {
  readonly volumeId = 'v-1';
  readonly epoch = 1;
  readonly sizeBytes: number;
  bytes: Buffer;
  durable: Buffer;
  isSettling = false;
  scrubber = {
    isWanted: false,
    order: (): never => {
      throw new Error('nobody scrubs it');
    },
  };
  flushes = 0;
  /** answers with an error, without doing anything */
  failing = false;
  inline = true;
  readonly #later: (() => void)[];
  #over: StorError | null = null;
  readonly #listeners: ((reason: StorError) => void)[] = [];

  constructor(grant: AttachmentGrant, later: (() => void)[]) {
    super();
    this.sizeBytes = grant.sizeBytes;
    this.bytes = Buffer.alloc(grant.sizeBytes);
    this.durable = Buffer.alloc(grant.sizeBytes);
    this.#later = later;
  }

  readInline(offset: number, length: number, target: Uint8Array, start: number): boolean {
    if (!this.inline) return false;
    if (offset + length > this.sizeBytes) throw new Error('behind the end');
    target.set(this.bytes.subarray(offset, offset + length), start);
    return true;
  }
  holeBytes(offset: number, length: number): number {
    if (!this.inline) return 0;
    if (offset + length > this.sizeBytes) throw new Error('behind the end');
    const next = this.bytes.subarray(offset, offset + length).findIndex((byte) => byte !== 0);
    return next < 0 ? length : next;
  }
  read(request: BlockRequest): void {
    this.#do(request, () => {
      const { offset, length, start, bytes } = request;
      bytes?.set(this.bytes.subarray(offset, offset + length), start);
    });
  }
  write(request: BlockRequest): void {
    const { offset, length, start, bytes } = request;
    if (!bytes) throw new Error('no bytes');
    // what is not retained is copied in the call
    const payload = request.retained ? bytes : Buffer.from(bytes);
    this.#do(request, () => {
      this.bytes.set(payload.subarray(start, start + length), offset);
      if (request.fua) this.#makeDurable();
    });
  }
  writeZeroes(request: BlockRequest): void {
    this.trim(request);
  }
  trim(request: BlockRequest): void {
    this.#do(request, () => {
      this.bytes.fill(0, request.offset, request.offset + request.length);
      if (request.fua) this.#makeDurable();
    });
  }
  flush(request: BlockRequest): void {
    this.flushes += 1;
    // only what was answered before it began
    const image = Buffer.from(this.bytes);
    this.#do(request, () => {
      this.durable = image;
    });
  }
  extents(
    offset: number,
    length: number,
    limit: number,
    done: (error: StorError | null, extents: Extent[]) => void,
  ): void {
    const found: Extent[] = [];
    for (let at = offset; at < offset + length && found.length < limit;) {
      const allocated = this.bytes[at] !== 0;
      let end = at;
      while (end < offset + length && (this.bytes[end] !== 0) === allocated) end += 1;
      found.push({ offset: at, length: end - at, allocated });
      at = end;
    }
    this.#later.push(() => {
      done(this.failing ? failure() : null, found);
    });
  }
  activate(): Promise<void> {
    return this.#over ? Promise.reject(this.#over) : Promise.resolve();
  }
  tick(): void {}
  peerMoved(): void {}
  update(): void {}
  idle(): Promise<void> {
    return Promise.resolve();
  }
  stop(): Promise<void> {
    this.finish(new StorError('ABORTED', 'stopped'));
    return Promise.resolve();
  }
  finish(reason: StorError): void {
    if (this.#over) return;
    this.#over = reason;
    for (const listener of this.#listeners) listener(reason);
  }
  onStopped(listener: (reason: StorError) => void): void {
    this.#listeners.push(listener);
  }
  status(): ReturnType<SegmentPrimary['status']> {
    const { volumeId, epoch } = this;
    return { volumeId, epoch, state: 'serving', reason: '', stateAgeMs: 0, segments: [] };
  }

  #makeDurable(): void {
    this.durable = Buffer.from(this.bytes);
  }
  #do(request: BlockRequest, run: () => void): void {
    if (request.offset + request.length > this.sizeBytes) throw new Error('behind the end');
    const fails = this.failing;
    this.#later.push(() => {
      if (!fails) run();
      request.done(fails ? failure() : null);
    });
  }
}

function failure(): StorError {
  return new StorError('DISK_FAILED', 'a disk has failed');
}

function grantOf(size: number): AttachmentGrant {
  const count = Math.ceil(size / segmentBytes);
  return {
    volumeId: 'v-1',
    name: 'db',
    epoch: 1,
    resourceVersion: 1,
    sizeBytes: size,
    segmentBytes,
    replicas: 1,
    policy: defaultPolicy(1),
    mode: 'auto',
    previousReleased: true,
    acceptUnflushedLoss: false,
    segments: Array.from({ length: count }, (_, index) => {
      return { index, setRevision: 1, inSync: ['r'], replicas: [] };
    }),
  };
}

interface Rig {
  volume: SegmentedVolume;
  segments: FakeSegment[];
  later: (() => void)[];
}

async function rigOf(size = sizeBytes): Promise<Rig> {
  const later: (() => void)[] = [];
  const segments: FakeSegment[] = [];
  const volume = new SegmentedVolume(grantOf(size), (grant) => {
    const segment = new FakeSegment(grant, later);
    segments.push(segment);
    return segment;
  });
  await volume.activate(new AbortController().signal);
  return { volume, segments, later };
}

type Kind = 'read' | 'write' | 'writeZeroes' | 'trim' | 'flush';

interface Asked {
  kind: Kind;
  offset: number;
  length: number;
  bytes: Buffer | null;
  fua: boolean;
  answers: (StorError | null)[];
}

function submit(
  rig: Rig,
  kind: Kind,
  offset: number,
  length: number,
  options: { bytes?: Buffer; fua?: boolean; retained?: boolean } = {},
): Asked {
  const { fua = false, retained = true } = options;
  const bytes = options.bytes ?? (kind === 'read' ? Buffer.alloc(length) : null);
  const asked: Asked = { kind, offset, length, bytes, fua, answers: [] };
  const given = kind === 'write' && bytes ? Buffer.from(bytes) : bytes;
  rig.volume[kind]({
    offset,
    length,
    bytes: given,
    start: 0,
    retained: kind === 'read' || retained,
    fua,
    noHole: false,
    done: (error) => asked.answers.push(error),
  });
  if (kind === 'write' && !retained) given?.fill(0xee);
  return asked;
}

/** Answers what is under way, in an order that the numbers choose. */
function answerAll(rig: Rig, order: number[] = []): void {
  for (let i = 0; rig.later.length > 0; i++) {
    const at = (order[i % Math.max(1, order.length)] ?? 0) % rig.later.length;
    for (const run of rig.later.splice(at, 1)) run();
  }
}

const steps = fc.array(
  fc.record({
    kind: fc.constantFrom<Kind>('read', 'read', 'write', 'write', 'writeZeroes', 'trim', 'flush'),
    offset: fc.nat(sizeBytes - 1),
    length: fc.oneof(fc.nat(8), fc.nat(sizeBytes)),
    fill: fc.integer({ min: 1, max: 255 }),
    fua: fc.boolean(),
    retained: fc.boolean(),
    inline: fc.boolean(),
    failing: fc.option(fc.nat(5), { freq: 8 }),
    order: fc.array(fc.nat(20), { minLength: 1, maxLength: 6 }),
  }),
  { maxLength: 60 },
);

t.test('behaves like one flat device, also when segments fail', async (t) => {
  await fc.assert(
    fc.asyncProperty(steps, async (plan) => {
      const rig = await rigOf();
      const flat = Buffer.alloc(sizeBytes);
      /** bytes that a failed change leaves unknown until they are written again */
      const unknown = new Set<number>();
      for (const step of plan) {
        const { kind, offset, fill, fua, failing } = step;
        const length = kind === 'flush' ? 0 : Math.min(step.length, sizeBytes - offset);
        for (const segment of rig.segments) segment.inline = step.inline;
        const broken = failing === null ? null : (rig.segments[failing] ?? null);
        if (broken) broken.failing = true;
        const bytes = kind === 'write' ? Buffer.alloc(length, fill) : undefined;
        const { retained, order } = step;
        const asked = submit(rig, kind, offset, length, { ...(bytes && { bytes }), fua, retained });
        answerAll(rig, order);
        if (broken) broken.failing = false;
        if (asked.answers.length !== 1) fail(step);
        const [error = null] = asked.answers;
        const touched = range(offset, length);
        const hits = (index: number): boolean =>
          touched.some((at) => Math.floor(at / segmentBytes) === index);
        if (kind !== 'flush' && !fua && !error && failing !== null && hits(failing)) fail(step);
        if (error && failing === null) fail(step);
        if (kind === 'read' && !error) {
          for (const at of touched) {
            if (!unknown.has(at) && asked.bytes?.[at - offset] !== flat[at]) fail(step);
          }
          const inline = Buffer.alloc(length);
          if (rig.volume.readInline(offset, length, inline, 0)) {
            for (const at of touched) {
              if (!unknown.has(at) && inline[at - offset] !== flat[at]) fail(step);
            }
          }
          const holeBytes = rig.volume.holeBytes?.(offset, length) ?? 0;
          for (const at of range(offset, holeBytes)) {
            if (!unknown.has(at) && flat[at] !== 0) fail(step);
          }
        } else if (kind !== 'flush' && kind !== 'read') {
          for (const at of touched) {
            flat[at] = kind === 'write' ? fill : 0;
            if (error) unknown.add(at);
            else unknown.delete(at);
          }
        }
        // I1: every acknowledged write is durable on every segment, not only where the flush was
        if (!error && (kind === 'flush' || (fua && kind !== 'read' && length > 0))) {
          const durable = Buffer.concat(rig.segments.map((segment) => segment.durable));
          for (let at = 0; at < sizeBytes; at++) {
            if (!unknown.has(at) && durable[at] !== flat[at]) fail(step);
          }
        }
      }
    }),
    { numRuns: 1_000 },
  );
  t.pass();
});

function range(offset: number, length: number): number[] {
  return Array.from({ length }, (_, i) => offset + i);
}

function fail(step: object): never {
  throw new Error(`wrong after ${JSON.stringify(step)}`);
}

t.test('extents over boundaries come in order, cut off by the limit', async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.nat(sizeBytes - 1), { maxLength: 12 }),
      fc.nat(sizeBytes - 1),
      fc.nat(sizeBytes),
      fc.integer({ min: 1, max: 20 }),
      async (written, offset, wanted, limit) => {
        const rig = await rigOf();
        for (const at of written) {
          submit(rig, 'write', at, 1, { bytes: Buffer.from([1]) });
        }
        answerAll(rig);
        const length = Math.min(Math.max(1, wanted), sizeBytes - offset);
        const answers: Extent[][] = [];
        rig.volume.extents(offset, length, limit, (error, extents) => {
          if (error) throw error;
          answers.push(extents);
        });
        answerAll(rig);
        const [extents = []] = answers;
        if (answers.length !== 1 || extents.length === 0 || extents.length > limit) fail(extents);
        let at = offset;
        for (const extent of extents) {
          if (extent.offset !== at || extent.length <= 0) fail(extents);
          for (let i = 0; i < extent.length; i++, at++) {
            if (extent.allocated !== written.includes(at)) fail(extents);
          }
        }
        if (extents.length < limit && at !== offset + length) fail(extents);
      },
    ),
  );
  t.pass();
});

t.test('flushes reach the segments that need it, and no other', async (t) => {
  const rig = await rigOf();
  const counts = (): number[] => rig.segments.map(({ flushes }) => flushes);
  submit(rig, 'flush', 0, 0);
  answerAll(rig);
  t.same(counts(), [1, 1, 1, 1, 1, 1], 'earlier epochs may have left something anywhere');
  submit(rig, 'write', segmentBytes, 8, { bytes: Buffer.alloc(8, 1) });
  answerAll(rig);
  submit(rig, 'flush', 0, 0);
  answerAll(rig);
  t.same(counts(), [1, 2, 1, 1, 1, 1]);
  submit(rig, 'flush', 0, 0);
  answerAll(rig);
  t.same(counts(), [2, 2, 1, 1, 1, 1], 'one is asked in any case: does this primary still serve?');

  const [, second, third, fourth] = rig.segments;
  if (!second || !third || !fourth) throw new Error('segments');
  const written = submit(rig, 'write', 3 * segmentBytes, 8, { bytes: Buffer.alloc(8, 1) });
  const early = submit(rig, 'flush', 0, 0);
  rig.later.shift()?.();
  t.same([written.answers, early.answers], [[null], []], 'answered while a flush runs');
  answerAll(rig);
  t.equal(fourth.flushes, 1, 'the flush began before the write was acknowledged');
  submit(rig, 'flush', 0, 0);
  t.equal(fourth.flushes, 2);
  const beside = submit(rig, 'flush', 0, 0);
  t.equal(fourth.flushes, 3, 'one that is under way is no answer for another');
  t.same(beside.answers, []);
  answerAll(rig);

  third.isSettling = true;
  submit(rig, 'flush', 0, 0);
  answerAll(rig);
  third.isSettling = false;
  submit(rig, 'flush', 0, 0);
  answerAll(rig);
  submit(rig, 'flush', 0, 0);
  answerAll(rig);
  t.equal(third.flushes, 3, 'once more after the settle has ended');

  second.failing = true;
  submit(rig, 'write', segmentBytes, 8, { bytes: Buffer.alloc(8, 2) });
  answerAll(rig);
  second.failing = false;
  const before = second.flushes;
  for (let i = 0; i < 3; i++) {
    submit(rig, 'flush', 0, 0);
    answerAll(rig);
  }
  t.equal(second.flushes, before + 3, 'a write that failed may still come to be');
});

t.test('a flush that fails is not the last', async (t) => {
  const rig = await rigOf();
  const [, second] = rig.segments;
  if (!second) throw new Error('segments');
  second.failing = true;
  const failed = submit(rig, 'flush', 0, 0);
  answerAll(rig);
  t.match(failed.answers, [{ code: 'DISK_FAILED' }]);
  second.failing = false;
  const next = submit(rig, 'flush', 0, 0);
  answerAll(rig);
  t.same(next.answers, [null]);
  t.equal(second.flushes, 2);
});

t.test('one segment that is over ends the volume, and is heard of once', async (t) => {
  const rig = await rigOf();
  const reasons: string[] = [];
  rig.volume.onStopped(({ code }) => reasons.push(code));
  rig.segments[2]?.finish(new StorError('STALE_EPOCH', 'a newer one exists'));
  t.same(reasons, ['STALE_EPOCH']);
  t.match(submit(rig, 'read', 0, 8).answers, [{ code: 'STALE_EPOCH' }]);
  t.notOk(rig.volume.readInline(0, 8, Buffer.alloc(8), 0));
  await rig.volume.stop();
  t.same(reasons, ['STALE_EPOCH']);
});

t.test('a volume of one segment passes requests on as they are', async (t) => {
  const rig = await rigOf(segmentBytes - 8);
  const [only] = rig.segments;
  const seen: unknown[] = [];
  if (only) only.write = (request) => seen.push(request);
  const request: BlockRequest = {
    offset: 0,
    length: 8,
    bytes: Buffer.alloc(8),
    start: 0,
    retained: true,
    fua: false,
    noHole: false,
    done: () => {},
  };
  rig.volume.write(request);
  t.equal(seen[0], request);
  await rig.volume.stop();
  const refused = submit(rig, 'read', 0, 8);
  t.match(refused.answers, [{ code: 'ABORTED' }]);
});

t.test('a grant whose segments do not fit its size is refused', async (t) => {
  const make = (grant: AttachmentGrant): SegmentPrimary => new FakeSegment(grant, []);
  const grant = grantOf(sizeBytes);
  const wrong: AttachmentGrant[] = [
    { ...grant, segments: grant.segments.slice(1) },
    { ...grant, segments: grant.segments.slice(0, -1) },
    { ...grant, sizeBytes: 5 * segmentBytes },
    { ...grant, segments: [] },
  ];
  for (const each of wrong) {
    t.throws(() => new SegmentedVolume(each, make), { code: 'FAILED_PRECONDITION' });
  }
});
