// The independent reader against disks that the store wrote, and against damaged ones.
import { closeSync, cpSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { readReplica } from '../benchmarks/src/replica-reader/read-replica.ts';
import { crc32, systemFiles, silentLogger, systemClock } from '../packages/runtime/src/index.ts';
import {
  openDiskStore,
  type DiskStore,
  type ReplicaStore,
} from '../packages/replicator/src/index.ts';

const blockBytes = 4096;
const chunkBytes = 256 * 1024;
const sizeBytes = 3 * 1024 * 1024 + 5 * blockBytes;
const replicaId = 'r-0123456789abcdef';

function open(path: string): Promise<DiskStore> {
  return openDiskStore({
    path,
    expect: { clusterId: 'c-0123456789abcdef', nodeId: 'n-0123456789abcdef' },
    create: { diskId: 'd-0123456789abcdef' },
    files: systemFiles,
    clock: systemClock,
    logger: silentLogger,
    bootId: 'boot',
    failures: { record: () => undefined, failuresOf: () => [] },
    options: { journalBytes: 256 * 1024, reserveBytes: 0 },
  });
}

const settle = (call: (done: (error: Error | null) => void) => void): Promise<void> =>
  new Promise((resolve, reject) => call((error) => (error ? reject(error) : resolve())));

async function write(
  replica: ReplicaStore,
  model: Buffer,
  offset: number,
  fill: number,
  blocks: number,
): Promise<void> {
  const bytes = Buffer.alloc(blocks * blockBytes);
  for (let at = 0; at < bytes.length; at += 1) bytes[at] = (fill + at * 7 + (at >> 9)) & 0xff;
  const sums = new Uint32Array(blocks);
  for (let block = 0; block < blocks; block += 1) {
    sums[block] = crc32(bytes.subarray(block * blockBytes, (block + 1) * blockBytes));
  }
  await settle((done) => replica.write(offset, bytes.length, bytes, 0, sums, 0, done));
  bytes.copy(model, offset);
}

/** A disk with a replica that has holes, overwrites, freed chunks and an odd end; and its bytes. */
async function filledDisk(dir: string): Promise<{ disk: string; store: DiskStore; model: Buffer }> {
  const disk = join(dir, 'disk');
  const store = await open(disk);
  const identity = { replicaId, volumeId: 'v-0123456789abcdef', segment: 0, sizeBytes };
  const replica = await store.createReplica(identity);
  const model = Buffer.alloc(sizeBytes);
  await settle((done) => replica.fence(4, done));
  await write(replica, model, 0, 1, 64);
  await write(replica, model, 2 * chunkBytes + blockBytes, 2, 3);
  await write(replica, model, 5 * chunkBytes, 3, 128);
  await write(replica, model, sizeBytes - 2 * blockBytes, 4, 2);
  await write(replica, model, 10 * blockBytes, 5, 1);
  await settle((done) => replica.zero(5 * chunkBytes, chunkBytes, false, done));
  model.fill(0, 5 * chunkBytes, 6 * chunkBytes);
  // Takes the slot that was just freed.
  await write(replica, model, 8 * chunkBytes, 6, 2);
  await settle((done) => replica.flush(done));
  return { disk, store, model };
}

t.test('a stopped disk', async (t) => {
  const dir = t.testdir();
  const { disk, store, model } = await filledDisk(dir);
  await store.close();
  const image = join(dir, 'image');
  const facts = readReplica(disk, replicaId, image);
  t.match(facts, { cleanShutdown: true, sizeBytes, badBlocks: 0, problems: [] });
  t.ok(facts.allocatedBytes >= 5 * chunkBytes && facts.allocatedBytes < sizeBytes);
  t.ok(readFileSync(image).equals(model), 'the image is what was written');
  t.throws(() => readReplica(disk, 'r-ffffffffffffffff', image), /no replica/);
});

t.test('a disk whose agent was killed: the journal tells the rest', async (t) => {
  const dir = t.testdir();
  const { disk, store, model } = await filledDisk(dir);
  // The copy is what a kill -9 leaves: everything that was given to the kernel, and no clean stop.
  const killed = join(dir, 'killed');
  cpSync(disk, killed, { recursive: true, filter: (path) => !/\block(\.[^/]*)?$/.test(path) });
  await store.close();
  const image = join(dir, 'image');
  const facts = readReplica(killed, replicaId, image);
  t.match(facts, { cleanShutdown: false, badBlocks: 0, problems: [] });
  t.ok(readFileSync(image).equals(model));
});

t.test('damage is seen', async (t) => {
  const dir = t.testdir();
  const { disk, store } = await filledDisk(dir);
  await store.close();
  const replica = join(disk, 'lineages', replicaId);
  const image = join(dir, 'image');
  const flip = (path: string, at: number): void => {
    const file = openSync(path, 'r+');
    const byte = Buffer.alloc(1);
    readSync(file, byte, 0, 1, at);
    byte.writeUInt8(byte.readUInt8(0) ^ 0x40);
    writeSync(file, byte, 0, 1, at);
    closeSync(file);
  };

  flip(join(replica, 'data'), 1234);
  t.equal(readReplica(disk, replicaId, image).badBlocks, 1, 'a bit of the data');
  flip(join(replica, 'data'), 1234);
  t.equal(readReplica(disk, replicaId, image).badBlocks, 0);

  flip(join(replica, 'sums'), 9);
  t.equal(readReplica(disk, replicaId, image).badBlocks, 1, 'a bit of the checksums');
  flip(join(replica, 'sums'), 9);

  flip(join(replica, 'slots'), 40);
  t.same(readReplica(disk, replicaId, image).problems, [], 'one copy of a page is enough');
  flip(join(replica, 'slots'), 4096 + 40);
  t.match(readReplica(disk, replicaId, image).problems, [
    /1 pages StorSlot are damaged in both copies/,
  ]);
  flip(join(replica, 'slots'), 40);
  flip(join(replica, 'slots'), 4096 + 40);

  flip(join(disk, 'image.a'), 70);
  t.match(readReplica(disk, replicaId, image).problems, [/image\.a is damaged/]);
  flip(join(disk, 'image.b'), 70);
  t.throws(() => readReplica(disk, replicaId, image), /both images/);
});
