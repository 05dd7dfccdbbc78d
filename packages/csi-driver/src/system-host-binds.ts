import { execFile } from 'node:child_process';
import { lstat, mkdir, open, readFile, realpath, rmdir, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { StorError } from '@stor/protocol';
import { bindsOfFolder, maybeBindsOfDevice, mountAt, parseMountTable } from './core/mount-table.ts';
import type { MountLine } from './core/mount-table.ts';
import type { Bind, BindOrder, HostBinds } from './host-binds.ts';
import { setGroupBelow } from './set-group-below.ts';

/** mount(8) and umount(8) answer at once, unless a server does not (ms). */
const toolTimeoutMs = 30_000;
const maxOutputBytes = 64 * 1024;
/** Mounts over each other at one target: an orchestrator that has lost its memory makes a few. */
const maxStackedMounts = 16;
/** Where both tools are; the PATH of a service may lack them. */
const toolPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

const folderMode = 0o750;
const fileMode = 0o640;

/** Bind mounts by mount(8), and what the kernel says of them. */
export class SystemHostBinds implements HostBinds {
  async real(path: string): Promise<string> {
    const missing: string[] = [];
    for (let at = path; ; at = dirname(at)) {
      try {
        return join(await realpath(at), ...missing);
      } catch (error) {
        if (!isMissing(error) || at === '/') throw failed(`cannot look at ${at}`, error);
        missing.unshift(basename(at));
      }
    }
  }

  async of(source: string, kind: BindOrder['kind']): Promise<Bind[]> {
    const table = await readTable();
    const lines =
      kind === 'folder'
        ? bindsOfFolder(table, source)
        : await sameDevice(maybeBindsOfDevice(table, source), source);
    const targets = new Map(lines.map((line) => [line.directory, line.readOnly]));
    return [...targets].map(([target, readOnly]) => ({ target, readOnly }));
  }

  async bind(order: BindOrder, signal: AbortSignal): Promise<void> {
    const { source, kind, target, readOnly } = order;
    const present = (await this.of(source, kind)).find((each) => each.target === target);
    if (present && (kind === 'device' || present.readOnly === readOnly)) return;
    if (present || (await this.isMounted(target))) {
      const what = present ? `${source} ${present.readOnly ? 'read-only' : 'for writing'}` : 'else';
      throw new StorError(
        'ALREADY_EXISTS',
        `${target} is a mount already (${what}): unpublish it first`,
      );
    }
    await (kind === 'folder' ? makeFolder(target) : makeFile(target));
    const options = kind === 'folder' && readOnly ? 'bind,ro' : 'bind';
    await run('mount', ['-o', options, '--', source, target], signal);
    const made = (await this.of(source, kind)).find((each) => each.target === target);
    if (made && (kind === 'device' || !readOnly || made.readOnly)) return;
    await run('umount', ['--', target], signal);
    throw new StorError('INTERNAL', `${source} is not mounted at ${target} as it should be`);
  }

  async unbind(target: string, signal: AbortSignal): Promise<void> {
    for (let round = 0; await this.isMounted(target); round++) {
      if (round === maxStackedMounts) {
        throw new StorError(
          'FAILED_PRECONDITION',
          `too many mounts lie over each other: ${target}`,
        );
      }
      await run('umount', ['--', target], signal);
    }
    await removeTarget(target);
  }

  async isMounted(target: string): Promise<boolean> {
    return mountAt(await readTable(), target) !== null;
  }

  async setGroup(folder: string, gid: number, signal: AbortSignal): Promise<void> {
    await setGroupBelow(folder, gid, signal);
  }
}

async function readTable(): Promise<MountLine[]> {
  return parseMountTable(await readFile('/proc/self/mountinfo', 'utf8'));
}

/** Those that are the node of the very same device. */
async function sameDevice(lines: readonly MountLine[], path: string): Promise<MountLine[]> {
  const wanted = await nodeNumber(path);
  if (wanted === null) return [];
  const same: MountLine[] = [];
  for (const line of lines) if ((await nodeNumber(line.directory)) === wanted) same.push(line);
  return same;
}

async function nodeNumber(path: string): Promise<number | null> {
  try {
    const found = await stat(path);
    return found.isBlockDevice() ? found.rdev : null;
  } catch (error) {
    if (isMissing(error)) return null;
    throw failed(`cannot look at ${path}`, error);
  }
}

async function makeFolder(target: string): Promise<void> {
  try {
    await mkdir(target, { recursive: true, mode: folderMode });
  } catch (error) {
    throw failed(`cannot make the folder ${target}`, error);
  }
}

async function makeFile(target: string): Promise<void> {
  await makeFolder(dirname(target));
  try {
    const file = await open(target, 'ax', fileMode);
    await file.close();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') {
      throw failed(`cannot make the file ${target}`, error);
    }
    const found = await lstat(target);
    // of a try before this one; nothing else is hidden beneath a mount
    if (found.isFile() && found.size === 0) return;
    throw new StorError('FAILED_PRECONDITION', `${target} is there already, and is no empty file`);
  }
}

/** An empty folder or file; whatever has something in it is not ours to delete. */
async function removeTarget(target: string): Promise<void> {
  try {
    const found = await lstat(target);
    if (found.isDirectory()) await rmdir(target);
    else if (found.isFile() && found.size === 0) await unlink(target);
    else throw new StorError('FAILED_PRECONDITION', `${target} is no empty file or folder`);
  } catch (error) {
    if (error instanceof StorError) throw error;
    if (!isMissing(error)) throw failed(`cannot delete ${target}`, error);
  }
}

function isMissing(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

function failed(what: string, cause: unknown): StorError {
  const { message } = cause as Error;
  return new StorError('FAILED_PRECONDITION', `${what}: ${message}`, { cause });
}

function run(tool: 'mount' | 'umount', args: string[], signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const env = { PATH: toolPath, LC_ALL: 'C' };
    const options = { env, timeout: toolTimeoutMs, maxBuffer: maxOutputBytes, signal };
    execFile(tool, args, options, (error, _stdout, stderr) => {
      if (!error) {
        resolve();
        return;
      }
      if (signal.aborted) {
        reject(new StorError('ABORTED', `${tool} was given up`, { cause: error }));
        return;
      }
      const said = stderr.trim().replaceAll(/\s*\n\s*/g, '; ') || error.message;
      const code = /busy/i.test(said) ? 'IN_USE' : 'FAILED_PRECONDITION';
      reject(new StorError(code, `${tool} failed: ${said}`, { cause: error }));
    });
  });
}
