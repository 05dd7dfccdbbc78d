import { readdir, readFile, readlink } from 'node:fs/promises';
import type { MountEntry } from '../core/mount-info.ts';

/** So many are enough to say who it is. */
const maxOpeners = 10;

/**
 * Processes that have files open below a directory, or have a device open, or work there: `postgres (4711)`;
 * mounts below it too. Other users' processes are seen by root only.
 */
export async function findOpeners(path: string, mounts: readonly MountEntry[]): Promise<string[]> {
  const isBelow = (file: string): boolean => file === path || file.startsWith(`${path}/`);
  const found = mounts
    .filter(({ target }) => target !== path && isBelow(target))
    .map(({ target }) => `a mount at ${target}`);
  const names = await readdir('/proc').catch(() => []);
  for (const pid of names.filter((name) => /^[0-9]+$/.test(name))) {
    if (found.length >= maxOpeners) break;
    if (await hasOpen(`/proc/${pid}`, isBelow)) {
      const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '?');
      found.push(`${name.trim()} (${pid})`);
    }
  }
  return found.slice(0, maxOpeners);
}

/** A process that ends meanwhile has nothing open. */
async function hasOpen(folder: string, isBelow: (file: string) => boolean): Promise<boolean> {
  const numbers = await readdir(`${folder}/fd`).catch(() => []);
  const links = ['cwd', 'root', 'exe', ...numbers.map((number) => `fd/${number}`)];
  for (const link of links) {
    const file = await readlink(`${folder}/${link}`).catch(() => '');
    if (isBelow(file)) return true;
  }
  return false;
}
