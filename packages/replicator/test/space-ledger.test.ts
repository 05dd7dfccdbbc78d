import fc from 'fast-check';
import t from 'tap';
import { AppliedPrefix } from '../src/core/replication/applied-prefix.ts';
import { CreditWindow, maxWindowChunks } from '../src/core/replication/credit-window.ts';
import { SpaceCredits } from '../src/core/replication/space-credits.ts';
import { type Promised, SpaceLedger } from '../src/core/store/space-ledger.ts';

type Up =
  | { type: 'write'; sequence: number; chunks: number }
  | { type: 'ping'; id: number; heard: number }
  | { type: 'room'; chunks: number };
type Down =
  | { type: 'told'; sequence: number; free: number }
  | { type: 'pong'; id: number; sequence: number; free: number };

/** A disk: slots that are free, and freed ones of each lineage that only it can use. */
class Disk {
  free: number;
  readonly recyclable: { recyclable: number }[];
  readonly ledger = new SpaceLedger(() => this.free);

  constructor(free: number, lineages: number) {
    this.free = free;
    this.recyclable = Array.from({ length: lineages }, () => ({ recyclable: 0 }));
  }

  /** Whether there were so many. */
  take(lineage: number, chunks: number): boolean {
    const source = this.recyclable[lineage];
    if (!source) return false;
    const own = Math.min(source.recyclable, chunks);
    source.recyclable -= own;
    this.free -= chunks - own;
    return this.free >= 0;
  }
}

/** A primary and a replica with the wires between them. */
class Writer {
  readonly #disk: Disk;
  readonly #lineage: number;
  #isOpen = true;
  #credits = new SpaceCredits();
  #sequence = 0;
  #up: Up[] = [];
  #down: Down[] = [];
  #pingId = 0;
  #heardPong = 0;
  #lastPong = 0;
  #applied = new AppliedPrefix();
  #running: { token: object; chunks: number }[] = [];
  #waiting: { frames: number; run: () => void }[] = [];
  #promised: Promised;
  #window: CreditWindow;

  constructor(disk: Disk, lineage: number) {
    this.#disk = disk;
    this.#lineage = lineage;
    this.#promised = this.#open();
    this.#window = new CreditWindow(this.#promised, this.#lastPong);
    this.#credits.reset(this.#window.tell());
  }

  #open(): Promised {
    const source = this.#disk.recyclable[this.#lineage] ?? { recyclable: 0 };
    const session = {};
    this.#session = session;
    return this.#disk.ledger.open(source, () => this.#session === session && this.#isOpen);
  }
  #session: object = {};

  /** What is under way is over before another one opens, as the gate sees to. */
  reopen(): void {
    this.close();
    this.#isOpen = true;
    this.#applied = new AppliedPrefix();
    this.#sequence = 0;
    this.#promised = this.#open();
    this.#window = new CreditWindow(this.#promised, this.#lastPong);
    this.#credits = new SpaceCredits();
    this.#credits.reset(this.#window.tell());
  }

  close(): void {
    while (this.#running.length > 0) this.apply(0, 0);
    this.#isOpen = false;
    this.#up = [];
    this.#down = [];
    this.#waiting = [];
  }

  write(chunks: number): void {
    if (!this.#isOpen || this.#credits.available < chunks) return;
    this.#sequence += 1;
    this.#credits.spend(this.#sequence, chunks);
    this.#up.push({ type: 'write', sequence: this.#sequence, chunks });
  }

  ask(chunks: number): void {
    if (this.#isOpen) this.#up.push({ type: 'room', chunks });
  }

  ping(): void {
    if (!this.#isOpen) return;
    this.#pingId += 1;
    this.#up.push({ type: 'ping', id: this.#pingId, heard: this.#heardPong });
  }

  ack(): void {
    if (this.#isOpen) this.#tell(0);
  }

  #tell(wanted: number): void {
    const free = this.#window.tell(wanted);
    this.#down.push({ type: 'told', sequence: this.#applied.sequence, free });
  }

  deliverUp(): void {
    const frame = this.#up.shift();
    if (frame?.type === 'write') {
      const token = this.#applied.begin(frame.sequence, 0);
      this.#running.push({ token, chunks: frame.chunks });
    } else if (frame?.type === 'room') {
      this.#whenApplied(() => {
        this.#tell(frame.chunks);
      });
    } else if (frame) {
      this.#whenApplied(() => {
        this.#window.heard(frame.heard);
      });
      this.#lastPong = frame.id;
      const free = this.#window.tellInPong(frame.id);
      this.#down.push({ type: 'pong', id: frame.id, sequence: this.#applied.sequence, free });
    }
  }

  #whenApplied(run: () => void): void {
    const frames = this.#applied.received;
    if (this.#applied.finished >= frames) run();
    else this.#waiting.push({ frames, run });
  }

  /** False when the disk had too little. */
  apply(which: number, needless: number): boolean {
    const [one] = this.#running.splice(which % Math.max(1, this.#running.length), 1);
    if (!one) return true;
    const chunks = Math.max(0, one.chunks - needless);
    const had = this.#disk.take(this.#lineage, chunks);
    this.#promised.use(chunks);
    this.#applied.applied(one.token);
    while ((this.#waiting[0]?.frames ?? Infinity) <= this.#applied.finished) {
      this.#waiting.shift()?.run();
    }
    return had;
  }

  deliverDown(): void {
    const frame = this.#down.shift();
    if (!frame) return;
    this.#credits.granted(frame.sequence, frame.free);
    if (frame.type === 'pong') this.#heardPong = frame.id;
  }

  /** Everything on its way arrives. */
  settle(): boolean {
    let fits = true;
    while (this.#up.length + this.#down.length + this.#running.length > 0) {
      while (this.#up.length > 0) this.deliverUp();
      while (this.#running.length > 0) fits = this.apply(0, 0) && fits;
      while (this.#down.length > 0) this.deliverDown();
    }
    return fits;
  }

  get available(): number {
    return this.#credits.available;
  }
}

const writers = 4;
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;
const step = fc.record({
  kind: fc.oneof(
    { weight: 30, arbitrary: fc.constantFrom('write', 'up', 'apply', 'down') },
    { weight: 15, arbitrary: fc.constantFrom('ping', 'ping', 'ask', 'ack') },
    { weight: 2, arbitrary: fc.constantFrom('free', 'dirty', 'punch') },
    { weight: 1, arbitrary: fc.constantFrom('reopen', 'close') },
  ),
  who: fc.nat(writers - 1),
  amount: fc.oneof(fc.nat(3), fc.nat(30)),
});

function run(disk: Disk, all: Writer[], { kind, who, amount }: Step): boolean {
  const writer = all[who];
  const source = disk.recyclable[who % 2];
  if (!writer || !source) return false;
  if (kind === 'write') writer.write(amount % 9);
  else if (kind === 'ask') writer.ask(amount);
  else if (kind === 'ping') writer.ping();
  else if (kind === 'ack') writer.ack();
  else if (kind === 'up') writer.deliverUp();
  else if (kind === 'apply') return writer.apply(amount, amount % 3);
  else if (kind === 'down') writer.deliverDown();
  else if (kind === 'reopen') writer.reopen();
  else if (kind === 'close') writer.close();
  else if (kind === 'free') disk.free += amount % 3;
  else if (kind === 'dirty') source.recyclable += amount % 4;
  else {
    const punched = Math.min(source.recyclable, amount);
    source.recyclable -= punched;
    disk.free += punched;
  }
  return disk.free >= 0;
}

t.test(
  'what writers of one disk were told is always there, and all of it can be had',
  async (t) => {
    const numRuns = Number(process.env['STOR_MODEL_RUNS'] ?? 1_000);
    const steps = fc.array(step, { minLength: 100, maxLength: 600, size: 'max' });
    fc.assert(
      fc.property(fc.nat(300), steps, (free, list) => {
        const disk = new Disk(free, 2);
        // two lineages; the replicas of one share its freed slots
        const all = Array.from({ length: writers }, (_, i) => new Writer(disk, i % 2));
        for (const one of list) if (!run(disk, all, one)) return false;
        if (!all.every((writer) => writer.settle())) return false;
        // the others rest; their pings go on, and what they do not use comes back
        for (let round = 0; round < 8; round++) {
          for (const writer of all) {
            writer.ping();
            if (!writer.settle()) return false;
          }
        }
        const [first, ...others] = all;
        for (const writer of others) writer.close();
        first?.reopen();
        const has = disk.free + (disk.recyclable[0]?.recyclable ?? 0);
        first?.ask(has);
        first?.settle();
        return first?.available === has;
      }),
      { numRuns },
    );
    t.pass();
  },
);

t.test('a writer that rests gives back what others ask for', async (t) => {
  const disk = new Disk(10_000, 2);
  const idle = new Writer(disk, 0);
  const busy = new Writer(disk, 1);
  t.equal(idle.available, maxWindowChunks, 'a window ahead of need');
  let written = 0;
  const write = (chunks: number): boolean => {
    busy.ask(chunks);
    busy.settle();
    if (busy.available < chunks) return false;
    busy.write(chunks);
    written += chunks;
    if (!busy.settle()) t.fail('a write that was sent found no room');
    for (const writer of [idle, busy]) {
      writer.ping();
      writer.settle();
    }
    return true;
  };
  while (write(100));
  for (let round = 0; round < 20; round++) {
    for (const writer of [idle, busy]) {
      writer.ping();
      writer.settle();
    }
  }
  while (write(1));
  t.equal(written, 10_000, 'every chunk of the disk');
  t.equal(idle.available, 0);
  t.equal(disk.free, 0);
});

t.test('what is under way keeps its room, whatever was said since it was sent', async (t) => {
  const disk = new Disk(40, 2);
  const one = new Writer(disk, 0);
  const other = new Writer(disk, 1);
  t.equal(one.available, 20, 'half of what there is, alone');
  one.write(20);
  one.deliverUp();
  const takeAll = (): void => {
    for (let chunks = 40; chunks > 0; chunks--) {
      other.ask(chunks);
      other.settle();
      if (other.available >= chunks) other.write(chunks);
      t.ok(other.settle());
    }
  };
  takeAll();
  for (let round = 0; round < 3; round++) {
    one.ping();
    one.deliverUp();
    one.deliverDown();
  }
  takeAll();
  t.equal(disk.free, 20, 'the room of the write that the replica has not applied yet');
  t.ok(one.apply(0, 0));
  t.equal(disk.free, 0);
});
