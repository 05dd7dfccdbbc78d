import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { StorError } from '@stor/protocol';

/** Where system tools are; a service's PATH often lacks the sbin folders. */
const toolFolders = ['/usr/sbin', '/sbin', '/usr/bin', '/bin', '/usr/local/sbin', '/usr/local/bin'];
/** mkfs of a large device with a slow discard takes longest (ms). */
const toolTimeoutMs = 50_000;
const maxOutputBytes = 1024 * 1024;

/** The Debian package of each tool that is called. */
const packages = {
  'mkfs.xfs': 'xfsprogs',
  wipefs: 'util-linux',
  mount: 'mount',
  umount: 'mount',
} as const;

export type Tool = keyof typeof packages;

export interface ToolResult {
  code: number;
  stdout: string;
  stderr: string;
}

/**
 * Runs a tool without a shell, in the C locale. FAILED_PRECONDITION names the package of a tool that
 * is missing; TIMEOUT.
 */
export async function runTool(tool: Tool, args: readonly string[]): Promise<ToolResult> {
  const file = findTool(tool);
  return new Promise((resolve, reject) => {
    const env = { ...process.env, LC_ALL: 'C' };
    const options = { env, timeout: toolTimeoutMs, maxBuffer: maxOutputBytes };
    execFile(file, args, options, (error, stdout, stderr) => {
      if (!error) {
        resolve({ code: 0, stdout, stderr });
        return;
      }
      if (typeof error.code === 'number') {
        resolve({ code: error.code, stdout, stderr });
        return;
      }
      const reason =
        error.killed === true ? `took longer than ${toolTimeoutMs / 1000} s` : error.message;
      reject(new StorError('INTERNAL', `${tool} ${reason}`, { cause: error }));
    });
  });
}

function findTool(tool: Tool): string {
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
  throw new StorError(
    'FAILED_PRECONDITION',
    `${tool} is missing on this node: apt-get install ${packages[tool]}`,
  );
}

/** What a failed tool said, in one line. */
export function toolError(tool: Tool, what: string, result: ToolResult): StorError {
  const said = (result.stderr.trim() || result.stdout.trim()).replaceAll(/\s*\n\s*/g, '; ');
  return new StorError(
    'FAILED_PRECONDITION',
    `${what}: ${tool} ended with ${result.code}: ${said}`,
  );
}
