import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { StorError } from '@stor/protocol';

/** Where system tools are; a service's PATH often lacks the sbin folders. */
const toolFolders = ['/usr/sbin', '/sbin', '/usr/bin', '/bin', '/usr/local/sbin', '/usr/local/bin'];
/** A check or a mkfs of a very large volume takes longest (ms). */
const toolTimeoutMs = 10 * 60_000;
/** What a tool says at most (bytes). */
const maxOutputBytes = 1024 * 1024;
/** Of what a failed tool said this much is told on: some go on with how they are used. */
const maxSaidLines = 3;
const maxSaidChars = 500;

/** The Debian package of each tool that is called. */
export const toolPackages = {
  blkid: 'util-linux',
  wipefs: 'util-linux',
  blkdiscard: 'util-linux',
  mount: 'mount',
  umount: 'mount',
  losetup: 'mount',
  'mkfs.ext4': 'e2fsprogs',
  e2fsck: 'e2fsprogs',
  resize2fs: 'e2fsprogs',
  'mkfs.xfs': 'xfsprogs',
  xfs_growfs: 'xfsprogs',
} as const;

export type Tool = keyof typeof toolPackages;

export interface ToolResult {
  code: number;
  stdout: string;
  stderr: string;
}

/**
 * Runs a tool without a shell, in the C locale. FAILED_PRECONDITION names the package of a tool that
 * is missing; TIMEOUT; ABORTED.
 */
export async function runTool(
  tool: Tool,
  args: readonly string[],
  signal: AbortSignal,
): Promise<ToolResult> {
  const file = findTool(tool);
  if (file === null) {
    throw new StorError(
      'FAILED_PRECONDITION',
      `${tool} is missing on this node: apt-get install ${toolPackages[tool]}`,
    );
  }
  return new Promise((resolve, reject) => {
    const env = { ...process.env, LC_ALL: 'C' };
    const options = { env, timeout: toolTimeoutMs, maxBuffer: maxOutputBytes, signal };
    execFile(file, args, options, (error, stdout, stderr) => {
      if (!error) {
        resolve({ code: 0, stdout, stderr });
        return;
      }
      if (typeof error.code === 'number') {
        resolve({ code: error.code, stdout, stderr });
        return;
      }
      if (signal.aborted) reject(new StorError('ABORTED', `${tool} was ended`, { cause: error }));
      else if (error.killed === true) {
        const text = `${tool} took longer than ${toolTimeoutMs / 60_000} min`;
        reject(new StorError('TIMEOUT', text, { cause: error }));
      } else reject(new StorError('INTERNAL', `${tool}: ${error.message}`, { cause: error }));
    });
  });
}

/** The path of a tool; null: this host has none. */
export function findTool(tool: Tool): string | null {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), ...toolFolders];
  for (const folder of folders) {
    if (!folder.startsWith('/')) continue;
    const file = join(folder, tool);
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      // the next folder
    }
  }
  return null;
}

/** What a failed tool said, in one line. */
export function toolError(tool: Tool, what: string, result: ToolResult): StorError {
  const lines = (result.stderr.trim() || result.stdout.trim()).split(/\s*\n\s*/);
  const said = lines.slice(0, maxSaidLines).join('; ');
  return new StorError(
    'FAILED_PRECONDITION',
    `${what}: ${tool} ended with ${result.code}: ${said.slice(0, maxSaidChars)}`,
  );
}
