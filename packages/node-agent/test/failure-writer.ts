import { parentPort, workerData } from 'node:worker_threads';
import { systemFiles } from '@stor/runtime';
import { FailureLog } from '../src/lane/failure-log.ts';

// A thread that records failures as fast as it can.
const { path, lock, diskId, count } = workerData as {
  path: string;
  lock: SharedArrayBuffer;
  diskId: string;
  count: number;
};
const log = new FailureLog(path, systemFiles, lock);
for (let i = 0; i < count; i += 1) log.record({ diskId, replicaId: `r-${i}`, reason: 'test' });
parentPort?.postMessage('done');
