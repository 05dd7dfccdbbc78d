import path from 'node:path';
import { crc32, type Files, type OpenFile, preallocate } from '@stor/runtime';
import { unitBytes } from '../core/store/format.ts';
import {
  decodeImage,
  encodeImage,
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

  /** `image` is null when neither copy is valid. */
  static open(
    files: Files,
    directory: string,
  ): { imageFiles: ImageFiles; image: StoreImage | null } {
    const opened = imageNames.map((name) => files.open(path.join(directory, name))) as [
      OpenFile,
      OpenFile,
    ];
    let newest: StoreImage | null = null;
    for (const file of opened) {
      // a killed process may have left it in the page cache only, and the other one is torn next
      file.datasyncSync();
      const image = decodeImage(readWhole(file), crc32);
      if (image && (newest === null || image.serial > newest.serial)) newest = image;
    }
    return { imageFiles: new ImageFiles(opened, newest?.serial ?? 0), image: newest };
  }

  /** Makes room for this many replicas. Throws ENOSPC, and then nothing has changed. */
  reserve(replicas: number): void {
    const needed = unitBytes + replicas * maxReplicaImageBytes;
    for (const file of this.#files) {
      const { sizeBytes } = file.size();
      if (sizeBytes >= needed) continue;
      preallocate(file, sizeBytes, Math.ceil(needed / firstImageBytes) * firstImageBytes);
      file.datasyncSync();
    }
  }

  async write(content: Omit<StoreImage, 'serial'>): Promise<void> {
    const bytes = this.#next(content);
    for (const file of this.#files) {
      file.writeSync(bytes, 0, bytes.length, 0);
      await new Promise<void>((resolve, reject) => {
        file.datasync((error) => {
          if (error) reject(error);
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

export function readWhole(file: OpenFile): Uint8Array {
  const bytes = new Uint8Array(file.size().sizeBytes);
  file.readSync(bytes, 0, bytes.length, 0);
  return bytes;
}
