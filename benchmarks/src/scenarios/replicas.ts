import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import { NbdClient } from 'nbd-client-js';
import type { TestCluster } from '../harness/test-cluster.ts';
import { readReplica, type ReplicaFacts } from '../replica-reader/read-replica.ts';

export interface StoppedReplica extends ReplicaFacts {
  node: string;
  imagePath: string;
  sha256: string;
}

/**
 * Reads a healthy volume through NBD, stops the agents in order, and reads every replica from its
 * disk with the independent reader. Leaves the agents stopped and the images in `imageDir`.
 */
export async function readAllReplicas(
  cluster: TestCluster,
  volume: string,
  imageDir: string,
): Promise<{ servedSha256: string; replicas: StoppedReplica[] }> {
  const { status } = await cluster.waitHealth(volume, 'healthy');
  const servedSha256 = await hashExport(cluster.tcpUri(0, volume));
  await cluster.stop();
  const replicas: StoppedReplica[] = [];
  for (const { id, node } of status.replicas) {
    const agent = cluster.agent(cluster.indexOfNode(node));
    const imagePath = join(imageDir, `${volume}-${node}.img`);
    const facts = readReplica(join(agent.dataDir, 'disks/d1'), id, imagePath);
    replicas.push({ ...facts, node, imagePath, sha256: await hashFile(imagePath) });
  }
  return { servedSha256, replicas };
}

const pieceBytes = 4 * 1024 * 1024;
const piecesInFlight = 4;

/** SHA-256 of a whole export. */
export async function hashExport(uri: string): Promise<string> {
  const client = await NbdClient.connect({ uri });
  const hash = createHash('sha256');
  const pending: Promise<Buffer>[] = [];
  try {
    for (let offset = 0; offset < client.sizeBytes || pending.length > 0; offset += pieceBytes) {
      if (offset < client.sizeBytes) {
        pending.push(client.read(offset, Math.min(pieceBytes, client.sizeBytes - offset)));
      }
      if (pending.length < piecesInFlight && offset + pieceBytes < client.sizeBytes) continue;
      hash.update((await pending.shift()) ?? Buffer.alloc(0));
    }
  } finally {
    // A piece that failed ends the reading; the others must not be left without a listener.
    await Promise.allSettled(pending);
    await client.disconnect();
  }
  return hash.digest('hex');
}

export async function hashFile(path: string, lengthBytes = Infinity): Promise<string> {
  const hash = createHash('sha256');
  const options = {
    highWaterMark: pieceBytes,
    ...(lengthBytes < Infinity ? { end: lengthBytes - 1 } : {}),
  };
  for await (const piece of createReadStream(path, options)) hash.update(piece as Buffer);
  return hash.digest('hex');
}
