import { join } from 'node:path';
import { nbdTarget } from '../fio/fio.ts';
import type { NbdServer, OwnServer } from './block-server.ts';
import { QemuNbd, qemuNbdArguments } from './qemu-nbd.ts';
import { ServerProcess } from './server-process.ts';

/** Where a read goes: to all children, compared; or to the first that answers. */
export type QuorumReads = 'quorum' | 'fifo';

const copies = 3;
const votes = 2;

/** The block device of the front, in the words of `qemu-nbd --image-opts`. */
export function quorumImageOptions(sockets: readonly string[], reads: QuorumReads): string {
  const children = sockets.flatMap((socket, index) => [
    `children.${index}.driver=nbd`,
    `children.${index}.server.type=unix`,
    // a comma inside a value is written twice
    `children.${index}.server.path=${socket.replaceAll(',', ',,')}`,
    `children.${index}.export=yardstick`,
  ]);
  const pattern = `read-pattern=${reads}`;
  return ['driver=quorum', `vote-threshold=${votes}`, pattern, ...children].join(',');
}

/**
 * qemu's quorum driver over three qemu-nbd, four processes, all on UNIX sockets: over TCP its client
 * leaves Nagle's algorithm on and stalls 40 ms at depth. Nothing records which copy is stale.
 */
export async function startQemuQuorum(
  dir: string,
  sizeBytes: number,
  name: string,
  reads: QuorumReads,
  paths: readonly string[] = Array.from({ length: copies }, (_, i) =>
    join(dir, `${name}-${i}.raw`),
  ),
): Promise<NbdServer & OwnServer> {
  const children: QemuNbd[] = [];
  const stop = async (): Promise<void> => {
    for (const child of children) await child.close();
  };
  try {
    for (const [index, path] of paths.entries()) {
      const child = { name: `${name}-${index}`, path };
      children.push(await QemuNbd.start(dir, sizeBytes, child));
    }
    const sockets = children.map((child) => join(dir, `${child.name}.sock`));
    const socket = join(dir, `${name}.sock`);
    const front = await ServerProcess.start(
      'qemu-nbd',
      [
        ...qemuNbdArguments,
        `--socket=${socket}`,
        '--export-name=quorum',
        '--image-opts',
        quorumImageOptions(sockets, reads),
      ],
      socket,
    );
    const uri = `nbd+unix:///quorum?socket=${socket}`;
    return {
      ...{ name, uri, target: nbdTarget(uri) },
      pids: () => [front.pid, ...children.flatMap((child) => child.pids())],
      close: async () => {
        await front.stop();
        await stop();
      },
    };
  } catch (error) {
    await stop();
    throw error;
  }
}
