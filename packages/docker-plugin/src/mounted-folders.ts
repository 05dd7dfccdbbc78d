import { mkdir, readdir, rmdir, stat } from 'node:fs/promises';
import path from 'node:path';

/** What is done in and around a mounted file system. */
export interface MountedFolders {
  /** Whether a file system is mounted at a folder: else what is written there stays on this host. */
  isMountPoint(folder: string): Promise<boolean>;
  /** names in a folder; none when it is not there */
  names(folder: string): Promise<string[]>;
  /** Makes it, for everybody to read; one that is there stays as it is. */
  make(folder: string): Promise<void>;
  /** Removes an empty folder that nothing is mounted on; any other stays. */
  removeEmpty(folder: string): Promise<void>;
}

/** As mkfs makes the root of a file system: whoever runs in the container may change it. */
const folderMode = 0o755;
const isThere = 'EEXIST';
/** Something is mounted or lies there, or it is gone already. */
const stays: readonly unknown[] = ['EBUSY', 'ENOTEMPTY', 'EEXIST', 'ENOENT', 'ENOTDIR'];

export const systemMountedFolders: MountedFolders = {
  async isMountPoint(folder) {
    try {
      const [own, above] = await Promise.all([stat(folder), stat(path.dirname(folder))]);
      return own.dev !== above.dev;
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return false;
      throw error;
    }
  },
  async names(folder) {
    try {
      return await readdir(folder);
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return [];
      throw error;
    }
  },
  async make(folder) {
    try {
      await mkdir(folder, { mode: folderMode });
    } catch (error) {
      if (codeOf(error) !== isThere) throw error;
    }
  },
  async removeEmpty(folder) {
    try {
      await rmdir(folder);
    } catch (error) {
      if (!stays.includes(codeOf(error))) throw error;
    }
  },
};

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code;
}
