import {
  closeSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { checksum, u64 } from './bytes.ts';
import { readDiskMetadata, type DiskMetadata, type ReplicaIdentity } from './disk-metadata.ts';
import { recordTypes } from './journal.ts';
import { Lineage } from './lineage.ts';

const blockBytes = 4096;
const chunkBytes = 256 * 1024;
const blocksPerChunk = chunkBytes / blockBytes;
const zeroBlockChecksum = checksum(Buffer.alloc(blockBytes));

export interface ReplicaFacts {
  replicaId: string;
  volumeId: string;
  clusterId: string;
  sizeBytes: number;
  /** the agent was stopped in order */
  cleanShutdown: boolean;
  allocatedBytes: number;
  /**
   * blocks of allocated chunks whose bytes do not match their checksum; after an unclean stop that
   * is no verdict in a marked region
   */
  badBlocks: number;
  /** the file of its slots, and where in it the first byte of the live image is that is not zero */
  dataPath: string;
  usedByteAt: number | null;
  /** everything else that is not as the format says */
  problems: string[];
}

/**
 * Reads one replica from a disk whose agent is stopped, checks every block against its checksum,
 * and writes the volume's bytes to `imagePath`, sparse where the replica is.
 */
export function readReplica(diskPath: string, replicaId: string, imagePath: string): ReplicaFacts {
  const disk = readDiskMetadata(diskPath);
  const found = findReplica(disk, replicaId);
  if (!found) throw new Error(`${diskPath} has no replica ${replicaId}`);
  const { number, identity } = found;
  const facts: ReplicaFacts = {
    replicaId,
    volumeId: identity.volumeId,
    clusterId: disk.identity.clusterId,
    sizeBytes: identity.sizeBytes,
    cleanShutdown: disk.cleanShutdown,
    allocatedBytes: 0,
    badBlocks: 0,
    dataPath: join(diskPath, 'lineages', found.folder, 'data'),
    usedByteAt: null,
    problems: [...disk.problems],
  };
  const damage = disk.replicas.find((replica) => replica.number === number)?.damage;
  if (damage) facts.problems.push(`the store says: ${damage}`);
  const folder = join(diskPath, 'lineages', found.folder);
  const chunks = Math.ceil(identity.sizeBytes / chunkBytes);
  const image = disk.lineages.find((lineage) => lineage.number === found.lineage);
  const tables = image && {
    slots: { file: readFileSync(join(folder, 'slots')), written: image.slotPages },
    layers: { file: readFileSync(join(folder, 'layers')), written: image.layerPages },
  };
  const lineage = new Lineage(found.lineage, tables ?? null, disk.records, facts.problems);
  copyChunks(folder, lineage.mapOf(number, chunks), imagePath, facts);
  return facts;
}

interface FoundReplica {
  number: number;
  identity: ReplicaIdentity;
  lineage: number;
  folder: string;
}

/** A replica of the image or one created since; one that was deleted since is not there. */
function findReplica(disk: DiskMetadata, replicaId: string): FoundReplica | undefined {
  const folders = new Map(disk.lineages.map(({ number, folder }) => [number, folder]));
  const replicas = disk.replicas.map((one): FoundReplica => ({
    ...one,
    folder: folders.get(one.lineage) ?? '',
  }));
  const deleted = new Set<number>();
  for (const { type, owner, body } of disk.records) {
    if (type === recordTypes.delete) deleted.add(owner);
    if (type === recordTypes.create) {
      const created = JSON.parse(body.toString('utf8')) as Omit<FoundReplica, 'number'>;
      replicas.push({ ...created, number: owner });
    }
    if (type !== recordTypes.resize) continue;
    const grown = replicas.find(({ number }) => number === owner);
    if (grown) grown.identity = { ...grown.identity, sizeBytes: u64(body, 0) };
  }
  return replicas.findLast(
    ({ number, identity }) => identity.replicaId === replicaId && !deleted.has(number),
  );
}

function copyChunks(
  folder: string,
  map: Uint32Array,
  imagePath: string,
  facts: ReplicaFacts,
): void {
  const data = openSync(join(folder, 'data'), 'r');
  const sums = openSync(join(folder, 'sums'), 'r');
  const image = openSync(imagePath, 'w');
  try {
    ftruncateSync(image, facts.sizeBytes);
    const bytes = Buffer.alloc(chunkBytes);
    const slotSums = Buffer.alloc(blocksPerChunk * 4);
    map.forEach((entry, chunk) => {
      if (entry === 0) return;
      const slot = entry - 1;
      facts.allocatedBytes += chunkBytes;
      readOrZeros(data, bytes, slot * chunkBytes);
      const used = facts.usedByteAt === null ? bytes.findIndex((byte) => byte !== 0) : -1;
      if (used >= 0) facts.usedByteAt = slot * chunkBytes + used;
      readOrZeros(sums, slotSums, slot * slotSums.length);
      const start = chunk * chunkBytes;
      const length = Math.min(chunkBytes, facts.sizeBytes - start);
      for (let block = 0; block * blockBytes < length; block += 1) {
        const content = bytes.subarray(block * blockBytes, (block + 1) * blockBytes);
        // Stored sums are XORed with the sum of a block of zeros: a hole of both files is right.
        const wanted = (slotSums.readUInt32LE(block * 4) ^ zeroBlockChecksum) >>> 0;
        if (checksum(content) !== wanted) facts.badBlocks += 1;
      }
      writeSync(image, bytes, 0, length, start);
    });
  } finally {
    closeSync(data);
    closeSync(sums);
    closeSync(image);
  }
}

/** The files are sparse and may end early: what is not there is zeros. */
function readOrZeros(file: number, target: Buffer, offset: number): void {
  target.fill(0);
  if (offset < fstatSync(file).size) readSync(file, target, 0, target.length, offset);
}
