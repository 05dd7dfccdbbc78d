import { readdirSync, readFileSync } from 'node:fs';
import { mustRun, runCommand } from './run-command.ts';
import { waitFor } from './wait-for.ts';

/** Makes a folder pass its mounts on to other mount namespaces, as a host's root does. Root. */
export async function shareMounts(dir: string): Promise<void> {
  await mustRun('mount', ['--bind', dir, dir]);
  await mustRun('mount', ['--make-shared', dir]);
}

/** Places where something is mounted at or below a folder; the latest first. */
export function mountsBelow(dir: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((target) => target === dir || target.startsWith(`${dir}/`))
    .reverse();
}

/** Processes, other than this one, that were started with the folder in an argument. */
export function processesOf(dir: string): { pid: number; command: string }[] {
  return readdirSync('/proc')
    .filter((name) => /^[0-9]+$/.test(name) && Number(name) !== process.pid)
    .map((name) => ({ pid: Number(name), command: commandOf(name) }))
    .filter(({ command }) => command.includes(dir));
}

/** Loop devices whose file lies in the folder. */
export async function loopDevicesOf(dir: string): Promise<string[]> {
  const { stdout } = await runCommand('losetup', [
    '--list',
    '--noheadings',
    '--output',
    'NAME,BACK-FILE',
  ]);
  return stdout.split('\n').filter((line) => line.includes(dir));
}

/**
 * Takes away what tests that ended early have left in their own temporary folder: processes, mounts, loop
 * devices.
 */
export async function clearFolder(dir: string): Promise<void> {
  for (const { pid } of processesOf(dir)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // it is gone
    }
  }
  await waitFor('the processes to end', () => processesOf(dir).length === 0, {
    deadlineMs: 10_000,
  });
  // First these: once the file system of their file is unmounted, nothing says where that was. One that is
  // mounted itself goes when that ends.
  for (const line of await loopDevicesOf(dir)) {
    await runCommand('losetup', ['-d', line.trim().split(/\s+/)[0] ?? '']);
  }
  for (const target of mountsBelow(dir)) await runCommand('umount', ['-l', target]);
}

function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
  } catch {
    return '';
  }
}
