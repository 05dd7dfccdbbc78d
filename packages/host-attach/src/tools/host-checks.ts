import { constants } from 'node:fs';
import { access, readFile } from 'node:fs/promises';
import { release } from 'node:os';
import { mountOf, parseMountInfo } from '../core/mount-info.ts';
import type { DeviceMeans, HostCheck, UsedMeans } from '../host-volumes.ts';
import { findTool, toolPackages, type Tool } from './run-tool.ts';

/** Bits among the capabilities of a process (linux/capability.h). */
const sysAdminBit = 21n;
const sysResourceBit = 24n;

/** A host without these mounts nothing; without the others it lacks one kind of file system. */
const neededTools: readonly Tool[] = ['blkid', 'wipefs', 'mount', 'umount', 'mkfs.ext4', 'e2fsck'];

/** The first one that says, in sysfs, whose a device of its NBD is. */
const oldestKernel = [5, 14] as const;

/** What this host has of what devices and mounts need. */
export async function hostChecks(used: UsedMeans): Promise<HostCheck[]> {
  const { means } = used;
  return [
    await rootCheck(),
    await deviceCheck('fuse', '/dev/fuse', means),
    await deviceCheck('loop', '/dev/loop-control', means),
    kernelNbdCheck(used, release(), await hasKernelModule('nbd')),
    ...(Object.keys(toolPackages) as Tool[]).map(toolCheck),
    await growthCheck(),
    await propagationCheck(),
  ];
}

async function rootCheck(): Promise<HostCheck> {
  const isAdmin = await hasCapability(sysAdminBit);
  const uid = process.geteuid?.() ?? 0;
  if (uid === 0 && isAdmin) {
    return { name: 'root', state: 'ok', text: 'the agent is root and may mount (CAP_SYS_ADMIN)' };
  }
  const lack =
    uid === 0 ? 'the agent is root without CAP_SYS_ADMIN' : `the agent runs as uid ${uid}`;
  return {
    name: 'root',
    state: 'failed',
    text: `${lack}, and nobody else may make devices and mounts: run it as root (in a container: --privileged, or --cap-add SYS_ADMIN with the devices)`,
  };
}

/** The kernel asks for it before it lets a mounted ext4 grow. */
async function growthCheck(): Promise<HostCheck> {
  const name = 'ext4-growth';
  if (await hasCapability(sysResourceBit)) {
    return { name, state: 'ok', text: 'ext4 can grow while it is mounted (CAP_SYS_RESOURCE)' };
  }
  return {
    name,
    state: 'warning',
    text: 'the agent has no CAP_SYS_RESOURCE, so ext4 cannot grow while it is mounted: run it with that (in a container: --cap-add SYS_RESOURCE), or use xfs',
  };
}

async function hasCapability(bit: bigint): Promise<boolean> {
  const status = await readFile('/proc/self/status', 'utf8').catch(() => '');
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0';
  return ((BigInt(`0x${effective}`) >> bit) & 1n) === 1n;
}

/** The module has the name of the check. */
async function deviceCheck(name: string, path: string, means: DeviceMeans): Promise<HostCheck> {
  try {
    await access(path, constants.R_OK | constants.W_OK);
    return { name, state: 'ok', text: `${path} is there` };
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const why = code === 'EACCES' ? 'may not be opened' : 'is not there';
    if (means !== 'fuse-loop') {
      return { name, state: 'ok', text: `${path} ${why}, and devices of ${means} need none` };
    }
    return {
      name,
      state: 'failed',
      text: `${path} ${why}, and without it no volume becomes a device: run "modprobe ${name}" (in a container: give it ${path})`,
    };
  }
}

/** Which of the means is used, and why. */
export function kernelNbdCheck(used: UsedMeans, kernel: string, has: boolean): HostCheck {
  const { wanted, means, refusal } = used;
  const name = 'nbd-kernel';
  const none = `the kernel ${kernel} has no nbd.ko`;
  if (means === 'fuse-loop') {
    let why = none;
    if (wanted === 'fuse-loop') why = '"deviceMeans: fuse-loop" is configured';
    else if (refusal !== null) why = `the kernel's NBD was tried and did not do: ${refusal}`;
    else if (has)
      why = `the NBD of the kernel ${kernel} is older than Linux ${oldestKernel.join('.')}`;
    const text = `volumes become devices by FUSE and a loop device: ${why}`;
    return { name, state: 'ok', text };
  }
  if (has) {
    const why = wanted === 'auto' ? 'the kernel has it' : '"deviceMeans: nbd-kernel" is configured';
    return { name, state: 'ok', text: `volumes become devices of nbd.ko: ${why}` };
  }
  const text = `"deviceMeans: nbd-kernel" is configured, and ${none}: install a kernel that has it, or configure fuse-loop`;
  return { name, state: 'failed', text };
}

/** See HostTools.hasKernelNbd. */
export async function hasKernelNbd(): Promise<boolean> {
  return isNewEnough(release()) && (await hasKernelModule('nbd'));
}

/** `kernel` as uname tells it: `6.1.0-56-cloud-amd64`. */
export function isNewEnough(kernel: string): boolean {
  const [major = 0, minor = 0] = kernel.split(/[.-]/).map(Number);
  const [oldMajor, oldMinor] = oldestKernel;
  return major > oldMajor || (major === oldMajor && minor >= oldMinor);
}

async function hasKernelModule(name: string): Promise<boolean> {
  const isThere = (path: string): Promise<boolean> =>
    access(path).then(
      () => true,
      () => false,
    );
  if (await isThere(`/sys/module/${name}`)) return true;
  const lists = ['modules.builtin', 'modules.dep'];
  for (const list of lists) {
    const text = await readFile(`/lib/modules/${release()}/${list}`, 'utf8').catch(() => '');
    if (new RegExp(`/${name}\\.ko\\b`).test(text)) return true;
  }
  return false;
}

function toolCheck(tool: Tool): HostCheck {
  const file = findTool(tool);
  if (file !== null) return { name: tool, state: 'ok', text: file };
  const state = neededTools.includes(tool) ? 'failed' : 'warning';
  const install = `apt-get install ${toolPackages[tool]}`;
  return { name: tool, state, text: `${tool} is missing: ${install}` };
}

/** What is mounted where the host does not see it is of no use to its other programs. */
async function propagationCheck(): Promise<HostCheck> {
  const name = 'mount-propagation';
  const table = parseMountInfo(await readFile('/proc/self/mountinfo', 'utf8').catch(() => ''));
  const isShared = mountOf(table, '/')?.shared === true;
  if (isShared)
    return { name, state: 'ok', text: 'what is mounted here is seen in containers too' };
  return {
    name,
    state: 'warning',
    text: 'mounts of this agent are seen by itself and what it starts only: run "mount --make-rshared /" on the host, or give its container the bind mount with rshared',
  };
}
