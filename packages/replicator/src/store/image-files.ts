import path from 'node:path';
import { crc32, type Files, type OpenFile, preallocate } from '@stor/runtime';
import { diskFormatVersion, unitBytes } from '../core/store/format.ts';
import {
  decodeImage,
  decodeImageUnit,
  encodeImage,
  type ImageUnit,
  maxReplicaImageBytes,
  type StoreImage,
} from '../core/store/image.ts';

export const imageNames = ['image.a', 'image.b'] as const;
/** First size of each; grown before a replica is created, so that metadata never lacks room. */
const firstImageBytes = 64 * 1024;

/**
 * The two copies of the image, always written one after the other, each synced: a power cut can
 * tear one, and at rest both are equal, so that a bad sector in one loses nothing.
 */
export class ImageFiles {
  readonly #files: [OpenFile, OpenFile];
  #serial: number;
  /** a sync that failed: the kernel says so once, and the next one would hide what is lost (I7) */
  #failed: Error | null = null;

  private constructor(files: [OpenFile, OpenFile], serial: number) {
    this.#files = files;
    this.#serial = serial;
  }

  static create(files: Files, directory: string): ImageFiles {
    const opened = imageNames.map((name) => {
      const file = files.create(path.join(directory, name));
      preallocate(file, 0, firstImageBytes);
      file.datasyncSync();
      return file;
    }) as [OpenFile, OpenFile];
    return new ImageFiles(opened, 0);
  }

  /** `image` is null when neither copy is valid; of the first format it is not decoded. */
  static open(
    files: Files,
    directory: string,
  ): { imageFiles: ImageFiles; image: StoreImage | null; version: number } {
    const opened = openBoth(
      files,
      imageNames.map((name) => path.join(directory, name)),
    );
    let newest: { unit: ImageUnit; bytes: Uint8Array } | null = null;
    for (const file of opened) {
      // a killed process may have left it in the page cache only, and the other one is torn next
      file.datasyncSync();
      const bytes = readWhole(file);
      const unit = decodeImageUnit(bytes, crc32);
      if (unit && (newest === null || unit.serial > newest.unit.serial)) newest = { unit, bytes };
    }
    const version = newest?.unit.version ?? diskFormatVersion;
    const image = newest && version !== 1 ? decodeImage(newest.bytes, crc32) : null;
    return { imageFiles: new ImageFiles(opened, newest?.unit.serial ?? 0), image, version };
  }

  /** Makes room for this many replicas. Throws ENOSPC, and then nothing has changed. */
  reserve(replicas: number): void {
    const needed = unitBytes + replicas * maxReplicaImageBytes;
    for (const file of this.#files) {
      const { sizeBytes } = file.size();
      if (sizeBytes >= needed) continue;
      preallocate(file, sizeBytes, Math.ceil(needed / firstImageBytes) * firstImageBytes);
      try {
        file.datasyncSync();
      } catch (error) {
        throw this.#syncFailed(error);
      }
    }
  }

  #syncFailed(error: unknown): Error {
    this.#failed ??= error instanceof Error ? error : new Error(String(error));
    return this.#failed;
  }

  async write(content: Omit<StoreImage, 'serial'>): Promise<void> {
    const bytes = this.#next(content);
    for (const file of this.#files) {
      file.writeSync(bytes, 0, bytes.length, 0);
      await new Promise<void>((resolve, reject) => {
        file.datasync((error) => {
          if (error) this.#syncFailed(error);
          if (this.#failed) reject(this.#failed);
          else resolve();
        });
      });
    }
  }

  writeSync(content: Omit<StoreImage, 'serial'>): void {
    const bytes = this.#next(content);
    for (const file of this.#files) {
      file.writeSync(bytes, 0, bytes.length, 0);
      file.datasyncSync();
    }
  }

  #next(content: Omit<StoreImage, 'serial'>): Uint8Array {
    this.#serial += 1;
    return encodeImage({ ...content, serial: this.#serial }, crc32);
  }

  close(): void {
    for (const file of this.#files) file.close();
  }
}

/** Opens two files, or none. */
export function openBoth(files: Files, paths: readonly string[]): [OpenFile, OpenFile] {
  const opened: OpenFile[] = [];
  try {
    for (const file of paths) opened.push(files.open(file));
    return opened as [OpenFile, OpenFile];
  } catch (error) {
    for (const file of opened) file.close();
    throw error;
  }
}

export function readWhole(file: OpenFile): Uint8Array {
  const bytes = new Uint8Array(file.size().sizeBytes);
  file.readSync(bytes, 0, bytes.length, 0);
  return bytes;
}
