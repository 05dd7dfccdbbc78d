/** Runs a disk store on real files as it is told; see WorkerLink. */
import { crc32, silentLogger, systemClock, systemFiles } from '../../packages/runtime/src/index.ts';
import {
  type DiskStore,
  openDiskStore,
  type ReplicaStore,
  type StoreDone,
} from '../../packages/replicator/src/index.ts';
import { answerOrders } from './answer-orders.ts';
import { diskIds, fillBlock, journalBytes } from './store-disk.ts';

export type StoreOrder =
  | { op: 'open'; path: string }
  | { op: 'create'; replica: string; sizeBytes: number }
  | { op: 'delete'; replica: string }
  | { op: 'write'; replica: string; block: number; values: number[] }
  | { op: 'zero'; replica: string; block: number; count: number }
  | { op: 'flush'; replica: string }
  | { op: 'fence'; replica: string; epoch: number }
  | { op: 'checkpoint'; replica: string; n: number }
  | { op: 'close' };

let store: DiskStore | null = null;

function disk(): DiskStore {
  if (!store) throw new Error('no disk is open');
  return store;
}

function call(id: string, make: (replica: ReplicaStore, done: StoreDone) => void): Promise<void> {
  const replica = disk().replica(id);
  if (!replica) return Promise.reject(new Error(`no replica ${id}`));
  return new Promise((resolve, reject) => {
    make(replica, (error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}

function write(order: Extract<StoreOrder, { op: 'write' }>): Promise<void> {
  const { replica, block, values } = order;
  const bytes = Buffer.alloc(values.length * 4096);
  const sums = new Uint32Array(values.length);
  values.forEach((value, i) => {
    fillBlock(bytes, i, value);
    sums[i] = crc32(bytes.subarray(i * 4096, (i + 1) * 4096));
  });
  const at = block * 4096;
  // as the engine does: at once when nothing must be made durable before
  if (disk().replica(replica)?.writeInline(at, bytes.length, bytes, 0, sums, 0) === true) {
    return Promise.resolve();
  }
  return call(replica, (one, done) => {
    one.write(at, bytes.length, bytes, 0, sums, 0, done);
  });
}

async function run(order: StoreOrder): Promise<unknown> {
  switch (order.op) {
    case 'open':
      store = await openDiskStore({
        path: order.path,
        ...diskIds,
        files: systemFiles,
        clock: systemClock,
        logger: silentLogger,
        bootId: 'boot-0',
        failures: { record: () => {}, failuresOf: () => [] },
        options: { journalBytes, reserveBytes: 0 },
      });
      return null;
    case 'create':
      return disk().createReplica({
        ...{ replicaId: order.replica, volumeId: `v-${order.replica}`, segment: 0 },
        sizeBytes: order.sizeBytes,
      });
    case 'delete':
      return disk().deleteReplica(order.replica);
    case 'write':
      return write(order);
    case 'zero':
      return call(order.replica, (one, done) => {
        one.zero(order.block * 4096, order.count * 4096, false, done);
      });
    case 'flush':
      return call(order.replica, (one, done) => {
        one.flush(done);
      });
    case 'fence':
      return call(order.replica, (one, done) => {
        one.fence(order.epoch, done);
      });
    case 'checkpoint':
      return call(order.replica, (one, done) => {
        one.cutMarks();
        one.retireMarks({ epoch: 1, n: order.n }, done);
      });
    case 'close':
      return disk().close();
  }
}

answerOrders<StoreOrder & { id: number }>(run);
