import { join } from 'node:path';
import { nbdTarget } from '../fio/fio.ts';
import type { NbdServer, OwnServer } from './block-server.ts';
import { ServerProcess } from './server-process.ts';
import { makeSparseFile } from './sparse-file.ts';

/** nbdkit's file plug-in on a UNIX socket: a thread per request in flight, page cache, FLUSH syncs. */
export async function startNbdkit(
  dir: string,
  sizeBytes: number,
  path = join(dir, 'nbdkit.raw'),
): Promise<NbdServer & OwnServer> {
  makeSparseFile(path, sizeBytes);
  const socket = join(dir, 'nbdkit.sock');
  const process = await ServerProcess.start(
    'nbdkit',
    ['--foreground', '--exit-with-parent', `--unix=${socket}`, 'file', path],
    socket,
  );
  const uri = `nbd+unix:///?socket=${socket}`;
  return {
    ...{ name: 'nbdkit', uri, target: nbdTarget(uri) },
    pids: () => [process.pid],
    close: () => process.stop(),
  };
}
