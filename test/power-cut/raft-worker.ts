/** Runs the Raft store on LevelDB as it is told; see WorkerLink. */
import { LevelRaftStorage, type SaveBatch } from '../../packages/raft-ts/src/index.ts';
import { answerOrders } from './answer-orders.ts';
import { batchOf, type RaftOrder } from './raft-orders.ts';

let storage: LevelRaftStorage | null = null;

async function run(order: RaftOrder): Promise<void> {
  if (order.op === 'open') {
    storage = await LevelRaftStorage.open(order.path);
    await storage.load();
    return;
  }
  const batch: SaveBatch = batchOf(order);
  await storage?.save(batch);
}

answerOrders<RaftOrder & { id: number }>(run);
