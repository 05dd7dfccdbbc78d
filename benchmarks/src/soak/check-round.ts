import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { runCommand } from '../harness/run-command.ts';
import type { TestCluster } from '../harness/test-cluster.ts';
import { parseFioResult } from '../fio/fio.ts';
import { runVerifier } from '../harness/writer-process.ts';
import { readReplica } from '../replica-reader/read-replica.ts';
import { hashImage, readReplicasOf, type ReadVolume } from '../scenarios/replicas.ts';
import { soakFioOptions } from './fio-loop.ts';

export interface ExpectedContents {
  volume: string;
  /** log of the verifying writer on it; null when none ran */
  logPath: string | null;
  /** seed of the last fio job on it; 0 when none ran */
  fioSeed: number;
}

/** Stops the agents and compares all replicas with each other, with fio and with the writer's log. */
export async function compareStoppedReplicas(
  cluster: TestCluster,
  expected: readonly ExpectedContents[],
  imageDir: string,
): Promise<string[]> {
  const problems: string[] = [];
  const names = expected.map(({ volume }) => volume);
  const volumes = await readReplicasOf(cluster, names, imageDir);
  for (const { volume, logPath, fioSeed } of expected) {
    const read = volumes.get(volume);
    if (!read || read.replicas.length === 0) {
      problems.push(`${volume}: no replica was read`);
      continue;
    }
    problems.push(...differences(volume, read));
    for (const { node, imagePath } of read.replicas) {
      if (logPath !== null) {
        const {
          wrong,
          torn,
          stamped,
          problems: found,
        } = await runVerifier(logPath, {
          image: imagePath,
        });
        if (wrong + torn > 0 || stamped === 0) {
          problems.push(
            `${volume} on ${node}: ${wrong} wrong, ${torn} torn of ${stamped} stamped sectors: ${found.join('; ')}`,
          );
        }
      }
      const error = fioSeed === 0 ? 0 : await fioVerify(imagePath, fioSeed, imageDir);
      if (error !== 0) problems.push(`${volume} on ${node}: fio finds error ${error}`);
    }
  }
  const control = await negativeControl(cluster, names[0] ?? '', volumes, imageDir);
  if (control !== null) problems.push(control);
  return problems;
}

function differences(volume: string, { servedHash, replicas }: ReadVolume): string[] {
  const problems: string[] = [];
  for (const replica of replicas) {
    const where = `${volume} on ${replica.node}`;
    if (replica.contentHash !== servedHash) problems.push(`${where} is not what was served`);
    if (replica.badBlocks > 0) problems.push(`${where}: ${replica.badBlocks} bad checksums`);
    if (replica.problems.length > 0) problems.push(`${where}: ${replica.problems.join('; ')}`);
    if (replica.allocatedBytes === 0) problems.push(`${where} is empty`);
  }
  return problems;
}

async function fioVerify(imagePath: string, seed: number, dir: string): Promise<number> {
  const options = { ...soakFioOptions(seed), ioengine: 'psync', filename: imagePath };
  const result = await runCommand(
    'fio',
    [
      ...['--output-format=json', '--name=stor', `--aux-path=${dir}`],
      ...['--verify_only=1', '--verify_fatal=1'],
      ...Object.entries(options).map(([option, value]) => `--${option}=${value}`),
    ],
    { cwd: dir },
  );
  return parseFioResult(result).error;
}

/**
 * Turns one bit of one replica's file round and looks again: a comparison that does not notice
 * proves nothing. Null when it noticed.
 */
async function negativeControl(
  cluster: TestCluster,
  volume: string,
  volumes: ReadonlyMap<string, ReadVolume>,
  imageDir: string,
): Promise<string | null> {
  const [replica] = volumes.get(volume)?.replicas ?? [];
  if (!replica) return 'no replica to damage for the negative control';
  const { dataDir } = cluster.agent(cluster.indexOfNode(replica.node));
  const disk = join(dataDir, 'disks/d1');
  const imagePath = join(imageDir, 'damaged.img');
  const { dataPath, usedByteAt } = readReplica(disk, replica.replicaId, imagePath);
  if (usedByteAt === null) return `${volume} on ${replica.node} holds only zeros`;
  flipBit(dataPath, usedByteAt);
  const facts = readReplica(disk, replica.replicaId, imagePath);
  const hash = await hashImage(imagePath);
  const noticed = facts.badBlocks === 1 && hash !== replica.contentHash;
  return noticed
    ? null
    : `the comparison does not notice a flipped bit in ${volume} on ${replica.node} (${facts.badBlocks} bad checksums)`;
}

function flipBit(path: string, at: number): void {
  const file = openSync(path, 'r+');
  try {
    const byte = Buffer.alloc(1);
    readSync(file, byte, 0, 1, at);
    writeSync(file, Buffer.from([(byte[0] ?? 0) ^ 1]), 0, 1, at);
  } finally {
    closeSync(file);
  }
}
