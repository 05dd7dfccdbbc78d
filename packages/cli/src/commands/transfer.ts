import { randomBytes } from 'node:crypto';
import { open, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { StorError, formatByteSize } from '@stor/protocol';
import type { CommandContext, Progress, RunAction } from '../command-context.ts';
import { exportImage } from '../export-image.ts';
import { importImage } from '../import-image.ts';
import { exportOfVolume, findExport, openExport, type NbdExport } from '../open-export.ts';
import { addNbdTlsOptions } from '../nbd-tls-options.ts';
import type { TransferResult } from '../transfer.ts';

export function addTransferCommands(volume: Command, run: RunAction): void {
  const importing = volume
    .command('import')
    .argument('<volume>', 'name or id')
    .argument('<file>', 'raw disk image')
    .option('--sha256', 'compute and print the SHA-256 of the file')
    .description('copy a raw image to the start of a volume; what lies behind its end stays')
    .addHelpText('after', '\nExamples:\n  storctl volume import db disk.img')
    .action(async (name: string, path: string, options: { sha256?: true }, command: Command) =>
      run(
        command.optsWithGlobals(),
        (context) => importCommand(context, name, path, options.sha256 === true),
        { longRunning: true },
      ),
    );
  const exporting = volume
    .command('export')
    .argument('<volume>', 'name or id, or a snapshot: db@monday')
    .argument('<file>', 'file to create')
    .option('--sha256', 'compute and print the SHA-256 of what is copied')
    .option('--force', 'replace the file if it exists')
    .description('copy a volume or a snapshot into a sparse raw image')
    .addHelpText(
      'after',
      '\nThe file appears under its name when it is whole and on disk. A volume that is being written\nmeanwhile gives an image of no single moment; a snapshot does not change.\n\nExamples:\n  storctl volume export db out.img\n  storctl volume export db@monday monday.img',
    )
    .action(
      async (
        name: string,
        path: string,
        options: { sha256?: true; force?: true },
        command: Command,
      ) =>
        run(
          command.optsWithGlobals(),
          (context) =>
            exportCommand(context, name, path, {
              sha256: options.sha256 === true,
              force: options.force === true,
            }),
          { longRunning: true },
        ),
    );
  addNbdTlsOptions(importing);
  addNbdTlsOptions(exporting);
}

async function importCommand(
  context: CommandContext,
  name: string,
  path: string,
  sha256: boolean,
): Promise<void> {
  const { api, call, io, signal } = context;
  const file = await fileCall(path, () => open(resolve(io.cwd, path), 'r'));
  try {
    const found = await file.stat();
    if (!found.isFile()) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `${path} is not a regular file: give a raw disk image`,
      );
    }
    const volume = await api.getVolume({ name }, call);
    if (found.size > volume.spec.sizeBytes) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `${path} has ${formatByteSize(found.size)} (${found.size} bytes) and does not fit into volume ${volume.metadata.name} of ${formatByteSize(volume.spec.sizeBytes)} (${volume.spec.sizeBytes} bytes): create a larger volume`,
      );
    }
    const wanted = exportOfVolume(volume);
    const session = await openExport(context, wanted);
    const progress = openProgress(context, `import ${volume.metadata.name}`, found.size);
    try {
      const startMs = now(context);
      const result = await importImage({
        file,
        fileBytes: found.size,
        session,
        signal,
        sha256,
        onProgress: (doneBytes) => progress.update(doneBytes),
      });
      progress.stop();
      printResult(
        context,
        wanted,
        path,
        result,
        `imported ${path} into volume ${volume.metadata.name}`,
        startMs,
      );
    } finally {
      progress.stop();
      await session.close();
    }
  } finally {
    await file.close();
  }
}

async function exportCommand(
  context: CommandContext,
  name: string,
  path: string,
  options: { sha256: boolean; force: boolean },
): Promise<void> {
  const { io } = context;
  const target = resolve(io.cwd, path);
  if (!options.force) await refuseExisting(target, path);
  const wanted = await findExport(context, name);
  const temporary = join(
    dirname(target),
    `.${basename(target)}.${randomBytes(6).toString('hex')}.part`,
  );
  const file = await fileCall(path, () => open(temporary, 'wx'));
  let kept = false;
  try {
    const startMs = now(context);
    const result = await exportInto(context, wanted, file, options.sha256);
    await file.close();
    if (!options.force) await refuseExisting(target, path);
    await fileCall(path, () => rename(temporary, target));
    kept = true;
    await syncFolder(dirname(target));
    printResult(context, wanted, path, result, `exported ${wanted.what} to ${path}`, startMs);
  } finally {
    // closing twice is harmless for a FileHandle
    await file.close();
    if (!kept) await rm(temporary, { force: true });
  }
}

async function exportInto(
  context: CommandContext,
  wanted: NbdExport,
  file: FileHandle,
  sha256: boolean,
): Promise<TransferResult> {
  const session = await openExport(context, wanted);
  const progress = openProgress(context, `export ${wanted.name}`, session.sizeBytes);
  try {
    return await exportImage({
      file,
      session,
      signal: context.signal,
      sha256,
      onProgress: (doneBytes) => progress.update(doneBytes),
    });
  } finally {
    progress.stop();
    await session.close();
  }
}

function printResult(
  context: CommandContext,
  { name }: NbdExport,
  path: string,
  result: TransferResult,
  sentence: string,
  startMs: number,
): void {
  const seconds = Math.max(now(context) - startMs, 1) / 1000;
  const { bytes, dataBytes, zeroBytes, sha256 } = result;
  const sizes = `${formatByteSize(bytes)} (${formatByteSize(dataBytes)} data, ${formatByteSize(zeroBytes)} zeros)`;
  const hash = sha256 === null ? '' : `sha256 ${sha256}\n`;
  context.print.facts(
    {
      volume: name,
      file: path,
      bytes,
      dataBytes,
      zeroBytes,
      ...(sha256 === null ? {} : { sha256 }),
    },
    `${sentence}: ${sizes} in ${seconds.toFixed(1)} s\n${hash}`,
  );
}

function openProgress({ io, print }: CommandContext, label: string, totalBytes: number): Progress {
  if (io.isTty && !print.quiet && io.progress !== undefined) return io.progress(label, totalBytes);
  return { update: () => {}, stop: () => {} };
}

function now({ clock }: CommandContext): number {
  return clock.wallMs();
}

async function refuseExisting(target: string, path: string): Promise<void> {
  const found = await stat(target).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw fileError(path, error);
  });
  if (found === null) return;
  throw new StorError(
    'ALREADY_EXISTS',
    `${path} exists already: choose another name, or replace it with --force`,
  );
}

/** The rename itself must survive a power cut. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

async function fileCall<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw fileError(path, error as NodeJS.ErrnoException);
  }
}

function fileError(path: string, error: NodeJS.ErrnoException): StorError {
  if (error.code === 'ENOENT') {
    return new StorError('NOT_FOUND', `${path} does not exist`, { cause: error });
  }
  if (error.code === 'EACCES' || error.code === 'EPERM' || error.code === 'EROFS') {
    return new StorError('PERMISSION_DENIED', `no permission for ${path}: ${error.message}`, {
      cause: error,
    });
  }
  return new StorError('INTERNAL', `${path}: ${error.message}`, { cause: error });
}
