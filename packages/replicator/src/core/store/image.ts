import type { Generation, ReplicaIdentity, SetView } from '../../replica-store.ts';
import {
  type Crc32,
  getU64,
  putU64,
  sealUnit,
  startUnit,
  unitBytes,
  unitIsValid,
  unitVersion,
} from './format.ts';

const imageMagic = 'StorImag';
/** unit header, serial u64 at 16, applied LSN u64 at 24, body length u32 at 32; body from 64 */
const imageHeaderBytes = 64;

/** Everything of a replica that is not in its table. */
export interface ReplicaImage {
  /** never reused on this disk; journal records and pages name the replica by it */
  number: number;
  /** number of the lineage that has its chunks */
  lineage: number;
  identity: ReplicaIdentity;
  highestEpoch: number;
  setView: SetView | null;
  generation: Generation;
  historyAfter: Generation;
  /** it may have lost unflushed writes, and has not been made equal to others since */
  suspect: boolean;
  /** why its metadata cannot be trusted; null when all is well */
  damage: string | null;
  /** pages of its table that have valid copies: fewer found at open means damage */
  regionPages: number;
}

/** A data file, its checksums, and the tables that say what is in it. */
export interface LineageImage {
  /** never reused on this disk; journal records and pages name the lineage by it */
  number: number;
  /** name of its folder in `lineages` */
  folder: string;
  slotPages: number;
  layerPages: number;
}

export interface StoreImage {
  serial: number;
  /** every record up to this one is in the tables and in this image */
  appliedLsn: number;
  cleanShutdown: boolean;
  bootId: string;
  mountIdentity: string;
  nextReplicaNumber: number;
  nextLineageNumber: number;
  lineages: LineageImage[];
  replicas: ReplicaImage[];
  /** replicas deleted durably whose files may still exist */
  deleting: string[];
  /** folders of lineages that went with them */
  deletingFolders: string[];
}

/** Whole units: header, then JSON, then zeros. */
export function encodeImage(image: StoreImage, crc32: Crc32): Uint8Array {
  const { serial, appliedLsn, ...rest } = image;
  const body = new TextEncoder().encode(JSON.stringify(rest));
  const bytes = new Uint8Array(Math.ceil((imageHeaderBytes + body.length) / unitBytes) * unitBytes);
  const view = startUnit(bytes, imageMagic);
  putU64(view, 16, serial);
  putU64(view, 24, appliedLsn);
  view.setUint32(32, body.length, true);
  bytes.set(body, imageHeaderBytes);
  sealUnit(bytes, crc32);
  return bytes;
}

/** What a valid image file holds, and the format of the program that wrote it. */
export interface ImageUnit {
  version: number;
  serial: number;
  appliedLsn: number;
  body: unknown;
}

export function decodeImageUnit(file: Uint8Array, crc32: Crc32): ImageUnit | null {
  if (file.length < unitBytes) return null;
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const bodyBytes = view.getUint32(32, true);
  const length = Math.ceil((imageHeaderBytes + bodyBytes) / unitBytes) * unitBytes;
  if (length > file.length || !unitIsValid(file.subarray(0, length), imageMagic, crc32))
    return null;
  const text = new TextDecoder().decode(
    file.subarray(imageHeaderBytes, imageHeaderBytes + bodyBytes),
  );
  const body = JSON.parse(text) as unknown;
  return {
    version: unitVersion(file),
    serial: getU64(view, 16),
    appliedLsn: getU64(view, 24),
    body,
  };
}

export function decodeImage(file: Uint8Array, crc32: Crc32): StoreImage | null {
  const unit = decodeImageUnit(file, crc32);
  if (!unit) return null;
  const body = unit.body as Omit<StoreImage, 'serial' | 'appliedLsn'>;
  return { serial: unit.serial, appliedLsn: unit.appliedLsn, ...body };
}

/** Upper bound of one replica's share of the image, so that room is made before it is needed. */
export const maxReplicaImageBytes = 2560;
