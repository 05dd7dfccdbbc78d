import type { Command } from 'commander';
import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { StorError } from '@stor/protocol';
import type { RunAction } from '../command-context.ts';

export function addBackupCommand(cluster: Command, run: RunAction): void {
  cluster
    .command('backup')
    .argument('<file>', 'where to write it')
    .option('--force', 'replace the file if it exists')
    .description(
      'write the state of the control plane to a file: volumes, nodes, settings; no data',
    )
    .addHelpText(
      'after',
      `
The file appears under its name when it is whole and on disk. It tells where replicas are, not what is
in them. How it is put back says "storctl cluster restore FILE".

Examples:
  storctl cluster backup cluster.backup
  storctl cluster backup /backup/stor-$(date +%F) --force`,
    )
    .action(async (file: string, options: { force?: true }, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, io, print, call }) => {
        const path = resolve(io.cwd, file);
        if (existsSync(path) && options.force !== true) {
          throw new StorError('ALREADY_EXISTS', `${path} exists: give --force to replace it`);
        }
        const { backup, items, revision } = await api.backupCluster({}, call);
        write(path, backup);
        print.facts({ file: path, items, revision }, `${items} records written to ${path}\n`);
      }),
    );
}

/** For the owner only: it names every host and volume. */
function write(path: string, text: string): void {
  const temporary = `${path}.new`;
  try {
    rmSync(temporary, { force: true });
    const file = openSync(temporary, 'wx', 0o600);
    try {
      writeSync(file, text);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, path);
    const folder = openSync(dirname(path), 'r');
    fsyncSync(folder);
    closeSync(folder);
  } catch (error) {
    throw new StorError(
      'FAILED_PRECONDITION',
      `the backup cannot be written: ${(error as Error).message}`,
      { cause: error },
    );
  }
}
