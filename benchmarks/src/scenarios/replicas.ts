import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { NbdClient } from 'nbd-client-js';
import type { TestCluster } from '../harness/test-cluster.ts';
import { readReplica, type ReplicaFacts } from '../replica-reader/read-replica.ts';

export interface StoppedReplica extends ReplicaFacts {
  node: string;
  segment: number;
  imagePath: string;
  contentHash: string;
}

/** A volume as it was served, and as each of its replicas is on disk. */
export interface ReadVolume {
  servedHash: string;
  /** by segment */
  segmentHashes: string[];
  replicas: StoppedReplica[];
}

/**
 * Reads a healthy volume through NBD, stops the agents in order, and reads every replica from its
 * disk with the independent reader. Leaves the agents stopped and the images in `imageDir`.
 */
export async function readAllReplicas(
  cluster: TestCluster,
  volume: string,
  imageDir: string,
): Promise<ReadVolume> {
  const all = await readReplicasOf(cluster, [volume], imageDir);
  const read = all.get(volume);
  if (!read) throw new Error(`${volume} was not read`);
  return read;
}

/** As readAllReplicas, for several volumes. */
export async function readReplicasOf(
  cluster: TestCluster,
  volumes: readonly string[],
  imageDir: string,
): Promise<Map<string, ReadVolume>> {
  const served: (Pick<ReadVolume, 'servedHash' | 'segmentHashes'> & {
    volume: string;
    places: { id: string; node: string; segment: number; diskId: string }[];
  })[] = [];
  for (const volume of volumes) {
    const { spec, status } = await cluster.waitHealth(volume, 'healthy');
    const node = status.primary ? cluster.indexOfNode(status.primary.node) : 0;
    const uri = cluster.tcpUri(node, volume);
    const servedHash = await hashExport(uri);
    const { sizeBytes, segmentBytes = sizeBytes } = spec;
    const segmentHashes: string[] = [];
    for (let at = 0; at < sizeBytes; at += segmentBytes) {
      const to = Math.min(sizeBytes, at + segmentBytes);
      segmentHashes.push(to - at === sizeBytes ? servedHash : await hashExport(uri, at, to));
    }
    served.push({ volume, servedHash, segmentHashes, places: status.replicas });
  }
  const disks = (await cluster.api.listDisks({})).disks;
  const paths = new Map(disks.map(({ metadata, spec }) => [metadata.id, spec.path]));
  await cluster.stop();
  const result = new Map<string, ReadVolume>();
  for (const { volume, servedHash, segmentHashes, places } of served) {
    const replicas: StoppedReplica[] = [];
    for (const { id, node, segment, diskId } of places) {
      const agent = cluster.agent(cluster.indexOfNode(node));
      const path = paths.get(diskId) ?? join(agent.dataDir, 'disks/d1');
      const imagePath = join(imageDir, `${volume}-${segment}-${node}.img`);
      const facts = readReplica(path, id, imagePath);
      const contentHash = await hashImage(imagePath);
      replicas.push({ ...facts, node, segment, imagePath, contentHash });
    }
    result.set(volume, { servedHash, segmentHashes, replicas });
  }
  return result;
}

const pieceBytes = 4 * 1024 * 1024;
const piecesInFlight = 4;
const zeros = Buffer.alloc(pieceBytes);

/**
 * A hash of contents that is quick on sparse images: SHA-256 over the number and the bytes of every
 * 4 MiB piece that is not all zeros. So images of different lengths that differ in zeros only at the
 * end have the same hash.
 */
class ContentHash {
  readonly #hash = createHash('sha256');
  #piece = 0;

  add(bytes: Buffer): void {
    this.#piece += 1;
    if (bytes.equals(zeros.subarray(0, bytes.length))) return;
    const padded = bytes.length === pieceBytes ? bytes : Buffer.concat([bytes, zeros], pieceBytes);
    this.#hash.update(`piece ${this.#piece}:`).update(padded);
  }

  digest(): string {
    return this.#hash.digest('hex');
  }
}

/** The content hash of an export, or of a part of it that begins at `from`. */
export async function hashExport(uri: string, from = 0, to = Infinity): Promise<string> {
  const client = await NbdClient.connect({ uri });
  const hash = new ContentHash();
  const pending: Promise<Buffer>[] = [];
  const end = Math.min(to, client.sizeBytes);
  let next = from;
  try {
    while (next < end || pending.length > 0) {
      while (next < end && pending.length < piecesInFlight) {
        const length = Math.min(pieceBytes, end - next);
        pending.push(client.read(next, length));
        next += length;
      }
      hash.add((await pending.shift()) ?? Buffer.alloc(0));
    }
  } finally {
    // A piece that failed ends the reading; the others must not be left without a listener.
    await Promise.allSettled(pending);
    await client.disconnect();
  }
  return hash.digest();
}

/** The content hash of an image file. */
export async function hashImage(path: string): Promise<string> {
  const hash = new ContentHash();
  const file = await open(path, 'r');
  const buffer = Buffer.alloc(pieceBytes);
  try {
    for (let at = 0; ;) {
      // A read of a file ends early only at its end.
      const { bytesRead } = await file.read(buffer, 0, pieceBytes, at);
      if (bytesRead === 0) break;
      hash.add(buffer.subarray(0, bytesRead));
      at += bytesRead;
    }
  } finally {
    await file.close();
  }
  return hash.digest();
}
