import { blockBytes, chunkBytes } from '@stor/protocol';
import { type Clock, crc32, type Files, silentLogger, systemClock } from '@stor/runtime';
import {
  type DiskStore,
  type DiskStoreOptions,
  type FailureRecorder,
  openDiskStore,
  type ReplicaIdentity,
  type ReplicaStore,
  type StoreDone,
} from '../src/index.ts';

export const clusterId = 'c-0000000000000001';
export const nodeId = 'n-0000000000000001';
export const diskId = 'd-0000000000000001';
export const mib = 1024 * 1024;
export const identity: ReplicaIdentity = {
  replicaId: 'r-0000000000000001',
  volumeId: 'v-0000000000000001',
  segment: 0,
  sizeBytes: 64 * mib,
};

/** Remembers failures as the agent's own folder does. */
export class Failures implements FailureRecorder {
  readonly all: Parameters<FailureRecorder['record']>[0][] = [];

  record(failure: Parameters<FailureRecorder['record']>[0]): void {
    this.all.push(failure);
  }

  failuresOf(id: string): ReturnType<FailureRecorder['failuresOf']> {
    return this.all.filter((failure) => failure.diskId === id);
  }
}

export function openStore(
  path: string,
  files: Files,
  more: {
    bootId?: string;
    failures?: FailureRecorder;
    options?: DiskStoreOptions;
    create?: boolean;
    clock?: Clock;
    expect?: { clusterId: string; nodeId: string };
  } = {},
): Promise<DiskStore> {
  return openDiskStore({
    path,
    expect: more.expect ?? { clusterId, nodeId },
    ...(more.create === false ? {} : { create: { diskId } }),
    files,
    clock: more.clock ?? systemClock,
    logger: silentLogger,
    bootId: more.bootId ?? 'boot-0',
    failures: more.failures ?? new Failures(),
    options: { journalBytes: 64 * 4096, reserveBytes: 0, ...more.options },
  });
}

export function call(make: (done: StoreDone) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    make((error) => {
      if (error) reject(error);
      else resolve();
    });
  });
}

export function blocksOf(count: number, value: number): { bytes: Buffer; sums: Uint32Array } {
  const bytes = Buffer.alloc(count * blockBytes, value);
  const sums = new Uint32Array(count).fill(crc32(bytes.subarray(0, blockBytes)));
  return { bytes, sums };
}

export function write(
  replica: ReplicaStore,
  offset: number,
  length: number,
  value: number,
): Promise<void> {
  const { bytes, sums } = blocksOf(length / blockBytes, value);
  return call((done) => {
    replica.write(offset, length, bytes, 0, sums, 0, done);
  });
}

export async function read(replica: ReplicaStore, offset: number, length: number): Promise<Buffer> {
  const target = Buffer.alloc(length, 0xee);
  await call((done) => {
    replica.read(offset, length, target, 0, done);
  });
  return target;
}

export function flush(replica: ReplicaStore): Promise<void> {
  return call((done) => {
    replica.flush(done);
  });
}

export { blockBytes, chunkBytes };
