import type { RpcTransport } from '@stor/control-plane';
import { StorError } from '@stor/protocol';

/** Another member has so long to say whether it knows this node (ms); one that is down delays no more. */
const askMs = 1_000;

/**
 * For a node whose configuration names all members, and that has no part of the cluster store: when the
 * cluster knows it, it has had one, and has lost its data folder. It would vote again where it has voted,
 * and take back what it acknowledged: an epoch could be granted twice (I2). FOREIGN_DATA then. When no
 * member answers it cannot be told from a cluster that begins.
 */
export async function checkFirstStart(
  rpc: RpcTransport,
  self: { id: string; name: string },
  members: readonly { id: string; api: string }[],
): Promise<void> {
  const others = members.filter(({ id }) => id !== self.id);
  const answers = await Promise.all(others.map(({ api }) => isKnownAt(rpc, api, self.id)));
  const at = answers.indexOf(true);
  if (at < 0) return;
  throw new StorError(
    'FOREIGN_DATA',
    `node ${self.name} (${self.id}) has taken part in this cluster, as ${others[at]?.api ?? ''} knows, and its data folder is new: put the folder back, or let the host join as a new node with --join ADDRESS --token TOKEN --replace (and without this config file)`,
  );
}

async function isKnownAt(rpc: RpcTransport, address: string, nodeId: string): Promise<boolean> {
  const channel = rpc.channel(address, 'stor');
  try {
    const outcome = await channel.call({
      method: 'GetNode',
      request: { name: nodeId },
      timeoutMs: askMs,
      connectTimeoutMs: askMs,
    });
    return outcome.type === 'answered';
  } finally {
    channel.close();
  }
}
