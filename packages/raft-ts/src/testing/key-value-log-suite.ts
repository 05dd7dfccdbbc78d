import assert from 'node:assert/strict';
import {
  maxMarkBytes,
  type KeyValueLog,
  type KeyValueOperation,
  type KeyValueRange,
} from '../key-value-log.ts';

/**
 * What every KeyValueLog does. `open` opens the store of the test, which is empty at first, and is
 * called again after the store was closed.
 */
export interface KeyValueLogTest {
  name: string;
  run(open: () => Promise<KeyValueLog>): Promise<void>;
}

const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);
const put = (key: Uint8Array, ...value: number[]): KeyValueOperation => ({
  type: 'put',
  key,
  value: bytes(...value),
});
const del = (key: Uint8Array): KeyValueOperation => ({ type: 'del', key });

async function entries(log: KeyValueLog, range: KeyValueRange = {}): Promise<number[][][]> {
  const found: number[][][] = [];
  for await (const [key, value] of log.range(range)) found.push([[...key], [...value]]);
  return found;
}

export const keyValueLogSuite: KeyValueLogTest[] = [
  {
    name: 'is empty at first',
    run: async (open) => {
      const log = await open();
      assert.deepEqual(await log.getMany([bytes(1)]), [undefined]);
      assert.deepEqual(await entries(log), []);
      await log.close();
    },
  },
  {
    name: 'puts, replaces and deletes in one batch, and keeps it',
    run: async (open) => {
      let log = await open();
      await log.batch([put(bytes(1), 10), put(bytes(2), 20), put(bytes(3))], { sync: true });
      await log.batch([put(bytes(1), 11), del(bytes(2)), del(bytes(9))], { sync: false });
      await log.close();
      log = await open();
      const values = await log.getMany([bytes(2), bytes(1), bytes(3)]);
      assert.deepEqual(
        values.map((value) => value && [...value]),
        [undefined, [11], []],
      );
      await log.close();
    },
  },
  {
    name: 'the last change of a key within a batch holds',
    run: async (open) => {
      const log = await open();
      await log.batch([put(bytes(1), 1), put(bytes(1), 2), put(bytes(2), 1), del(bytes(2))], {
        sync: true,
      });
      assert.deepEqual(await entries(log), [[[1], [2]]]);
      await log.close();
    },
  },
  {
    name: 'sorts keys by their bytes, and limits',
    run: async (open) => {
      const log = await open();
      const keys = [bytes(2), bytes(255), bytes(1, 0), bytes(1), bytes(128, 3), bytes(127)];
      await log.batch(
        keys.map((key) => put(key, ...key)),
        { sync: true },
      );
      const sorted = [[1], [1, 0], [2], [127], [128, 3], [255]];
      const keysOf = async (range: KeyValueRange) =>
        (await entries(log, range)).map(([key]) => key);
      assert.deepEqual(await keysOf({}), sorted);
      assert.deepEqual(await keysOf({ gt: bytes(1) }), sorted.slice(1));
      assert.deepEqual(await keysOf({ lt: bytes(128) }), sorted.slice(0, 4));
      assert.deepEqual(await keysOf({ gt: bytes(1), lt: bytes(255), limit: 2 }), [[1, 0], [2]]);
      await log.close();
    },
  },
  {
    name: 'does batches in the order in which they were given',
    run: async (open) => {
      const log = await open();
      const batches = Array.from({ length: 50 }, (_, i) =>
        log.batch([put(bytes(1), i), put(bytes(2, i), i)], { sync: i % 3 === 0 }),
      );
      await Promise.all(batches);
      assert.deepEqual((await entries(log, { lt: bytes(2) })).at(-1), [[1], [49]]);
      assert.equal((await entries(log)).length, 51);
      await log.close();
    },
  },
  {
    name: 'close waits for batches under way; after it nothing is written',
    run: async (open) => {
      const log = await open();
      const written = log.batch([put(bytes(1), 1)], { sync: true });
      await Promise.all([written, log.close()]);
      await assert.rejects(log.batch([put(bytes(2), 2)], { sync: true }));
      const again = await open();
      assert.deepEqual(await entries(again), [[[1], [1]]]);
      await again.close();
    },
  },
  {
    name: 'has two marks apart from the log, which hold what was written last',
    run: async (open) => {
      let log = await open();
      assert.deepEqual(await log.readMarks(), [null, null]);
      await log.writeMark(1, bytes(1, 2, 3));
      await log.writeMark(0, new Uint8Array(maxMarkBytes).fill(7));
      await log.writeMark(1, bytes(4));
      assert.deepEqual(await entries(log), [], 'they are no entries');
      await log.close();
      log = await open();
      assert.deepEqual(await log.readMarks(), [new Uint8Array(maxMarkBytes).fill(7), bytes(4)]);
      await log.close();
    },
  },
  {
    name: 'is open once',
    run: async (open) => {
      const log = await open();
      await assert.rejects(open(), { code: 'IN_USE' });
      await log.close();
      await (await open()).close();
    },
  },
];
