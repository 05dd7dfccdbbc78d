import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { checksum, isUnit, u64 } from './bytes.ts';
import { readJournal, type JournalRecord } from './journal.ts';

const imageHeaderBytes = 64;
const unitBytes = 4096;

export interface ReplicaIdentity {
  replicaId: string;
  volumeId: string;
  segment: number;
  sizeBytes: number;
}

interface ImageReplica {
  number: number;
  identity: ReplicaIdentity;
  /** why its metadata cannot be trusted, as the store found */
  damage: string | null;
  /** number of its lineage */
  lineage: number;
}

export interface ImageLineage {
  number: number;
  folder: string;
  /** pages of each table that have been written at least once */
  slotPages: number;
  layerPages: number;
}

export interface DiskMetadata {
  identity: { formatVersion: number; clusterId: string; nodeId: string; diskId: string };
  cleanShutdown: boolean;
  replicas: ImageReplica[];
  lineages: ImageLineage[];
  records: JournalRecord[];
  problems: string[];
}

interface Image {
  serial: number;
  appliedLsn: number;
  body: { cleanShutdown: boolean; replicas: ImageReplica[]; lineages: ImageLineage[] };
}

/** Reads identity, image and journal of a disk whose agent is stopped. */
export function readDiskMetadata(diskPath: string): DiskMetadata {
  const identity = JSON.parse(
    readFileSync(join(diskPath, 'disk.json'), 'utf8'),
  ) as DiskMetadata['identity'];
  if (identity.formatVersion !== 2) {
    throw new Error(`${diskPath}: format version ${identity.formatVersion}, this reader knows 2`);
  }
  const problems: string[] = [];
  const images = ['image.a', 'image.b'].flatMap((name) => {
    const image = decodeImage(readFileSync(join(diskPath, name)));
    if (!image) problems.push(`${name} is damaged`);
    return image ? [image] : [];
  });
  images.sort((a, b) => b.serial - a.serial);
  const [image] = images;
  if (!image) throw new Error(`${diskPath}: both images are damaged`);
  const journals = ['journal.0', 'journal.1'].map((name) => readFileSync(join(diskPath, name)));
  const journal = readJournal(journals, image.appliedLsn);
  return {
    identity,
    cleanShutdown: image.body.cleanShutdown,
    replicas: image.body.replicas,
    lineages: image.body.lineages,
    records: journal.records,
    problems: [...problems, ...journal.problems],
  };
}

function decodeImage(file: Buffer): Image | null {
  if (file.length < unitBytes || file.toString('latin1', 0, 8) !== 'StorImag') return null;
  const bodyBytes = file.readUInt32LE(32);
  const length = Math.ceil((imageHeaderBytes + bodyBytes) / unitBytes) * unitBytes;
  if (length > file.length) return null;
  const whole = file.subarray(0, length);
  if (whole.readUInt32LE(8) !== checksum(whole.subarray(12))) return null;
  if (!isUnit(whole, 'StorImag')) return null;
  const text = whole.toString('utf8', imageHeaderBytes, imageHeaderBytes + bodyBytes);
  const body = JSON.parse(text) as Image['body'];
  return { serial: u64(whole, 16), appliedLsn: u64(whole, 24), body };
}
