import fs from 'node:fs';
import { promisify } from 'node:util';
import { mountTable } from './mount-table.ts';

const { O_RDONLY, O_EXCL } = fs.constants;
const open = promisify(fs.open);
const fsync = promisify(fs.fsync);
const close = promisify(fs.close);

/** Of the users of a device so many are named. */
const mostNamed = 8;

const opened = 'open in process';
const claimed = 'mounted or claimed elsewhere';

/** Who uses a block device, in words; empty: nobody does. Devices in containers count too. */
export async function usersOf(path: string): Promise<string[]> {
  const number = fs.statSync(path).rdev;
  const device = `${major(number)}:${minor(number)}`;
  const users = mountTable()
    .filter((mount) => mount.device === device || mount.source === path)
    .map(({ target }) => `mounted at ${target}`);
  users.push(...holdersOf(device).map((name) => `held by ${name}`));
  users.push(...openersOf(number));
  if (users.length === 0 && (await isClaimed(path))) {
    users.push(`${claimed}, as in a container`);
  }
  return users.slice(0, mostNamed);
}

/** Whether these users may be gone in a moment: none has mounted it. */
export function isOnlyOpen(users: readonly string[]): boolean {
  return (
    users.length > 0 && users.every((user) => user.startsWith(opened) || user.startsWith(claimed))
  );
}

/** Writes back what the kernel has of the device, and makes it durable. Throws the system's error. */
export async function syncBlockDevice(path: string): Promise<void> {
  const fd = await open(path, O_RDONLY);
  try {
    await fsync(fd);
  } finally {
    await close(fd);
  }
}

/** Other block devices that are made of it. */
function holdersOf(device: string): string[] {
  try {
    return fs.readdirSync(`/sys/dev/block/${device}/holders`);
  } catch {
    return [];
  }
}

/** Mounts in any namespace, swap and the like claim a device for themselves. */
async function isClaimed(path: string): Promise<boolean> {
  try {
    await close(await open(path, O_RDONLY | O_EXCL));
    return false;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EBUSY') return true;
    throw error;
  }
}

/** Processes that have the device open under some name in a /dev; nothing else is looked at. */
function openersOf(number: number): string[] {
  const openers: string[] = [];
  for (const pid of fs.readdirSync('/proc')) {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue;
    if (descriptorsOf(pid).some((fd) => isDevice(fd, number))) {
      openers.push(`${opened} ${pid} (${programOf(pid)})`);
    }
  }
  return openers;
}

function descriptorsOf(pid: string): string[] {
  try {
    return fs.readdirSync(`/proc/${pid}/fd`).map((fd) => `/proc/${pid}/fd/${fd}`);
  } catch {
    // it has ended
    return [];
  }
}

function isDevice(descriptor: string, number: number): boolean {
  try {
    // stat() of any other file might wait for the file system that it is on
    if (!fs.readlinkSync(descriptor).startsWith('/dev/')) return false;
    const stat = fs.statSync(descriptor);
    return stat.isBlockDevice() && stat.rdev === number;
  } catch {
    return false;
  }
}

function programOf(pid: string): string {
  try {
    return fs.readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
  } catch {
    return '?';
  }
}

/** As makedev(3) puts them together. */
function major(device: number): number {
  return (device >> 8) & 0xfff;
}

function minor(device: number): number {
  return (device & 0xff) | ((device >> 12) & 0xfff00);
}
