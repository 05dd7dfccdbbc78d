import { silentLogger } from '@stor/runtime';
import { FakeClock, FaultyFiles } from '@stor/runtime/testing';
import type { KeyValueLog, KeyValueOperation } from 'raft-ts';
import { RaftError } from 'raft-ts';
import t from 'tap';
import { Ballast, ballastBytes } from '../src/embedded/ballast.ts';
import { RoomyLog } from '../src/embedded/roomy-log.ts';

const MiB = 1024 * 1024;
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const put = (key: string): KeyValueOperation => ({
  type: 'put',
  key: bytes(key),
  value: bytes(key),
});

/** Logs that are written to a file system which may be full; a batch that fails breaks the log. */
class FakeLogs {
  readonly kept: string[] = [];
  opens = 0;
  closes = 0;
  failure: Error | null = null;
  /** what a batch that failed left behind: it may be there or not */
  leaves = false;

  open = async (): Promise<KeyValueLog> => {
    if (this.failure) throw this.failure;
    this.opens += 1;
    let isBroken = false;
    let isClosed = false;
    return {
      getMany: async (keys) => {
        await Promise.resolve();
        if (isClosed) throw new Error('Database is not open');
        return keys.map((key) => this.#find(key));
      },
      range: async function* () {},
      batch: async (operations) => {
        if (isBroken) throw new Error('written behind half a record');
        const names = operations.map(({ key }) => new TextDecoder().decode(key));
        if (this.failure) {
          isBroken = true;
          if (this.leaves) this.kept.push(...names);
          throw this.failure;
        }
        this.kept.push(...names);
      },
      readMarks: async () => [null, null],
      writeMark: async (slot) => {
        if (this.failure) throw this.failure;
        this.kept.push(`mark ${slot}`);
      },
      close: async () => {
        isClosed = true;
        this.closes += 1;
      },
    };
  };

  #find(key: Uint8Array): Uint8Array | undefined {
    return this.kept.includes(new TextDecoder().decode(key)) ? key : undefined;
  }
}

const full = (): Error =>
  new Error('IO error: log/000003.log', { cause: new Error('No space left on device') });

function rig(capacityBytes = 256 * MiB) {
  const files = new FaultyFiles({ seed: 1, capacityBytes }).process();
  files.makeDirectory('/raft');
  const clock = new FakeClock();
  const ballast = new Ballast(files, '/raft', '/raft/ballast');
  const logs = new FakeLogs();
  const options = { open: logs.open, ballast, clock, logger: silentLogger };
  return { files, clock, logs, open: () => RoomyLog.open('/raft/log', options) };
}

const turns = async (): Promise<void> => {
  for (let i = 0; i < 50; i += 1) await Promise.resolve();
};

t.test('batches wait while the file system is full, and come in their order', async (t) => {
  for (const leaves of [false, true]) {
    const { files, clock, logs, open } = rig();
    const log = await open();
    t.equal(files.open('/raft/ballast').size().sizeBytes, ballastBytes);
    await log.batch([put('a')], { sync: true });
    logs.failure = full();
    logs.leaves = leaves;
    const answered: string[] = [];
    const pending = ['b', 'c'].map((key) =>
      log.batch([put(key)], { sync: true }).then(() => answered.push(key)),
    );
    await turns();
    t.notOk(files.exists('/raft/ballast'), 'its room is for the log');
    for (let i = 0; i < 5; i += 1) {
      clock.advance(1_000);
      await turns();
    }
    t.same(answered, [], 'nothing is said to be durable');
    t.equal(logs.opens, 1);
    logs.failure = null;
    clock.advance(1_000);
    await Promise.all(pending);
    t.same(answered, ['b', 'c']);
    t.same([...new Set(logs.kept)], ['a', 'b', 'c']);
    t.equal(logs.opens, 2, 'opened anew');
    clock.advance(60_000);
    await log.batch([put('d')], { sync: true });
    t.ok(files.exists('/raft/ballast'), 'laid by again');
    await log.close();
    t.equal(logs.closes, 2);
  }
});

t.test('a log snapshot is read while the file system is full, or a little later', async (t) => {
  const { clock, logs, open } = rig();
  const log = await open();
  await log.batch([put('a')], { sync: true });
  const read = () => log.getMany([bytes('a')]);
  logs.failure = full();
  const pending = log.batch([put('b')], { sync: true });
  const reads = [read()];
  // the log is closed under some of them
  for (let i = 0; i < 12; i += 1) {
    await Promise.resolve();
    reads.push(read());
  }
  await turns();
  reads.push(read());
  logs.failure = null;
  clock.advance(1_000);
  await pending;
  for (const each of await Promise.all(reads)) t.same(each, [bytes('a')]);
  await log.close();
  await t.rejects(read(), /not open/);
  const { logs: others, open: openOther } = rig();
  const other = await openOther();
  others.failure = full();
  const lost = t.rejects(other.batch([put('a')], { sync: true }), { code: 'CLOSED' });
  await turns();
  const waiting = t.rejects(other.getMany([bytes('a')]), /not open/);
  await other.close();
  await Promise.all([lost, waiting]);
});

t.test('any other error is told, and closing ends the wait', async (t) => {
  const { logs, open } = rig();
  const log = await open();
  logs.failure = new RaftError('STORAGE_FAILED', 'IO error: Input/output error');
  await t.rejects(log.batch([put('a')], { sync: true }), { code: 'STORAGE_FAILED' });
  await log.close();
  const { logs: others, open: openOther } = rig();
  const other = await openOther();
  others.failure = full();
  const pending = other.batch([put('a')], { sync: true });
  const rejected = t.rejects(pending, { code: 'CLOSED' });
  await turns();
  await other.close();
  await rejected;
});

t.test(
  'a disk that is full at the start costs the ballast, and without one the start',
  async (t) => {
    const { files, logs, open } = rig();
    await (await open()).close();
    logs.failure = full();
    // the room of the ballast is what opening needed
    const { open: openLog } = logs;
    logs.open = async () => {
      if (!files.exists('/raft/ballast')) logs.failure = null;
      return openLog();
    };
    const ballast = new Ballast(files, '/raft', '/raft/ballast');
    const options = { ballast, clock: new FakeClock(), logger: silentLogger };
    const log = await RoomyLog.open('/raft/log', { ...options, open: () => logs.open() });
    await log.close();
    files.remove('/raft/ballast');
    logs.failure = full();
    await t.rejects(RoomyLog.open('/raft/log', { ...options, open: openLog }), /IO error/);
    const { files: small, open: openSmall } = rig(32 * MiB);
    await (await openSmall()).close();
    t.notOk(small.exists('/raft/ballast'), 'a small file system is left in peace');
  },
);
