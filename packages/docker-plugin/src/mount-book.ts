import path from 'node:path';
import type { VolumeId } from '@stor/protocol';
import {
  makeDurableDirectory,
  readTextFile,
  writeTextFileDurably,
  type Files,
} from '@stor/runtime';
import {
  decodeMounts,
  encodeMounts,
  withMount,
  withOnly,
  withoutMount,
  type MountedVolume,
  type MountTable,
} from './core/mount-table.ts';

/**
 * Which containers have which volumes mounted, in a file. A change holds once it is durable: Docker is
 * answered after that, and an agent that is killed finds it again.
 */
export class MountBook {
  readonly #files: Files;
  readonly #path: string;
  readonly #bootId: string;
  #table: MountTable;

  private constructor(files: Files, file: string, bootId: string, table: MountTable) {
    this.#files = files;
    this.#path = file;
    this.#bootId = bootId;
    this.#table = table;
  }

  /** FOREIGN_DATA when what is there cannot be read. */
  static open(options: { files: Files; dir: string; bootId: string }): MountBook {
    const { files, dir, bootId } = options;
    makeDurableDirectory(files, dir);
    const file = path.join(dir, 'mounts.json');
    const table = files.exists(file) ? decodeMounts(readTextFile(files, file), bootId, file) : [];
    return new MountBook(files, file, bootId, table);
  }

  get table(): MountTable {
    return this.#table;
  }

  mounted(volume: Omit<MountedVolume, 'mounts'>, callerId: string): void {
    this.#write(withMount(this.#table, volume, callerId));
  }

  unmounted(volumeId: VolumeId, callerId: string): void {
    this.#write(withoutMount(this.#table, volumeId, callerId));
  }

  /** What is not mounted any more is used by nobody. */
  keepOnly(volumeIds: ReadonlySet<VolumeId>): void {
    const table = withOnly(this.#table, volumeIds);
    if (table.length < this.#table.length) this.#write(table);
  }

  #write(table: MountTable): void {
    if (table === this.#table) return;
    writeTextFileDurably(this.#files, this.#path, encodeMounts(table, this.#bootId));
    this.#table = table;
  }
}
