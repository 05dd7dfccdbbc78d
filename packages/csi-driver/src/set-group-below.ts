import { constants } from 'node:fs';
import { lchown, lstat, open, opendir } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import type { Stats } from 'node:fs';
import { StorError } from '@stor/protocol';

const { O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;

/** What a group needs of a folder, which hands the group down, and of a file. */
const folderBits = 0o2070;
const fileBits = 0o060;
const modeBits = 0o7777;
const permissionBits = 0o777;
/** Folders within each other: deeper ones hold a descriptor each, and no workload makes them. */
const maxDepth = 256;

/**
 * Lets a group read and write everything below a folder. Each entry is reached through the open folder that it
 * is in (/proc/self/fd), so that nobody who swaps a folder for a link meanwhile leads it elsewhere. The folder
 * itself comes last: when it is right, all below it was made right before.
 */
export async function setGroupBelow(
  folder: string,
  gid: number,
  signal: AbortSignal,
): Promise<void> {
  const top = await open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  try {
    const found = await top.stat();
    if (isRight(found, gid, folderBits)) return;
    await below(top, { gid, device: found.dev, depth: 1, signal });
    await change(top, found, gid, folderBits);
  } finally {
    await top.close();
  }
}

interface Walk {
  gid: number;
  /** of the file system: what is mounted within it is left alone */
  device: number;
  depth: number;
  signal: AbortSignal;
}

async function below(folder: FileHandle, walk: Walk): Promise<void> {
  if (walk.depth > maxDepth) {
    throw new StorError('FAILED_PRECONDITION', `folders lie more than ${maxDepth} deep`);
  }
  const base = `/proc/self/fd/${folder.fd}`;
  for await (const { name } of await opendir(base)) {
    walk.signal.throwIfAborted();
    const path = `${base}/${name}`;
    const found = await lstat(path).catch(() => null);
    if (!found || found.dev !== walk.device) continue;
    if (found.isDirectory()) await enter(path, walk);
    else if (found.isFile()) await changeFile(path, walk);
    else await lchown(path, found.uid, walk.gid).catch(() => {});
  }
}

async function enter(path: string, walk: Walk): Promise<void> {
  const folder = await opened(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!folder) return;
  try {
    const found = await folder.stat();
    if (found.dev !== walk.device) return;
    await below(folder, { ...walk, depth: walk.depth + 1 });
    await change(folder, found, walk.gid, folderBits);
  } finally {
    await folder.close();
  }
}

async function changeFile(path: string, { gid, device }: Walk): Promise<void> {
  const file = await opened(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  if (!file) return;
  try {
    const found = await file.stat();
    if (found.dev === device && found.isFile()) await change(file, found, gid, fileBits);
  } finally {
    await file.close();
  }
}

/** Null: it went away, or is something else by now. */
async function opened(path: string, flags: number): Promise<FileHandle | null> {
  try {
    return await open(path, flags);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ELOOP' || code === 'ENOTDIR') return null;
    throw error;
  }
}

async function change(handle: FileHandle, found: Stats, gid: number, bits: number): Promise<void> {
  if (isRight(found, gid, bits)) return;
  const isOther = found.gid !== gid;
  // the group first: a change of it takes setgid away
  if (isOther) await handle.chown(found.uid, gid);
  // a program that ran with the rights of its owner or group does so no more, as after any such change
  const kept = isOther && found.isFile() ? permissionBits : modeBits;
  await handle.chmod((found.mode & kept) | bits);
}

function isRight({ mode, gid: group }: Stats, gid: number, bits: number): boolean {
  return group === gid && (mode & bits) === bits;
}
