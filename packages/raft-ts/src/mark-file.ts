import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { RaftError } from './errors.ts';
import { maxMarkBytes } from './key-value-log.ts';

/** In LevelDB's directory, which leaves files alone whose names it does not know. */
const fileName = 'ACKNOWLEDGED';
/** A slot: the length (4 bytes, big-endian), then the record. A sector of any disk, written whole. */
const slotBytes = 512;
const lengthBytes = 4;

/**
 * The two marks of a store in a file of fixed size, written in place: no room is needed after the
 * first time, and a torn write leaves the other mark whole.
 */
export class MarkFile {
  readonly #file: FileHandle;
  #isOpen = true;

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /** Opens or creates it; the caller syncs the directory. */
  static async open(directory: string): Promise<MarkFile> {
    const path = join(directory, fileName);
    let file: FileHandle;
    try {
      file = await open(path, 'r+');
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
      file = await open(path, 'wx+', 0o600);
    }
    try {
      const { size } = await file.stat();
      // what a crash left of the first write is nothing that was ever read
      if (size < 2 * slotBytes) {
        await file.write(new Uint8Array(2 * slotBytes - size), 0, 2 * slotBytes - size, size);
        await file.sync();
      }
    } catch (error) {
      await file.close();
      throw error;
    }
    return new MarkFile(file);
  }

  async read(): Promise<(Uint8Array | null)[]> {
    const marks: (Uint8Array | null)[] = [];
    for (const slot of [0, 1]) {
      const bytes = Buffer.alloc(slotBytes);
      await this.#file.read(bytes, 0, slotBytes, slot * slotBytes);
      const length = bytes.readUInt32BE(0);
      const isWritten = length > 0 && length <= maxMarkBytes;
      marks.push(
        isWritten ? Uint8Array.from(bytes.subarray(lengthBytes, lengthBytes + length)) : null,
      );
    }
    return marks;
  }

  async write(slot: 0 | 1, bytes: Uint8Array): Promise<void> {
    if (bytes.length > maxMarkBytes) throw new RaftError('INTERNAL', 'a mark is too large');
    const sector = Buffer.alloc(slotBytes);
    sector.writeUInt32BE(bytes.length, 0);
    sector.set(bytes, lengthBytes);
    await this.#file.write(sector, 0, slotBytes, slot * slotBytes);
    await this.#file.datasync();
  }

  async close(): Promise<void> {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    await this.#file.close();
  }
}
