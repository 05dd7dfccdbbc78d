import path from 'node:path';
import type { MountedFolders } from '../mounted-folders.ts';

/**
 * Folders in memory. What lies in a mounted one belongs to its volume; a fake host does not mount, so here it
 * stays where it was made.
 */
export class MemoryFolders implements MountedFolders {
  readonly folders = new Set<string>();
  /** on which nothing is mounted any more, for somebody has unmounted it by hand */
  readonly bare = new Set<string>();

  async isMountPoint(folder: string): Promise<boolean> {
    return !this.bare.has(folder);
  }

  async names(folder: string): Promise<string[]> {
    const below = [...this.folders].filter((each) => path.dirname(each) === folder);
    return below.map((each) => path.basename(each));
  }

  async make(folder: string): Promise<void> {
    this.folders.add(folder);
  }

  async removeEmpty(folder: string): Promise<void> {
    this.folders.delete(folder);
  }
}
