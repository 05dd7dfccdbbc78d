import type { BlockSizes } from './core/client-handshake.ts';
import { systemClock } from './nbd-clock.ts';
import { systemNetwork } from './nbd-network.ts';
import { targetOf } from './nbd-options.ts';
import type { NbdConnectOptions } from './nbd-options.ts';
import { openNegotiated } from './nbd-socket.ts';
import type { OpenOptions } from './nbd-socket.ts';

const defaultConnectTimeoutMs = 30_000;

/** What a server says of an export without opening it. */
export interface ExportInfo {
  /** the server's own name of it, which may differ from the one that was asked for */
  name: string;
  /** for people; null when the server has none */
  description: string | null;
  sizeBytes: number;
  /** `transmissionFlag` bits */
  flags: number;
  blockSizes: BlockSizes;
}

/** Names of the exports of a server, over a connection of its own. Errors as `NbdClient.connect`. */
export async function listExports(options: NbdConnectOptions): Promise<string[]> {
  const { socket, result } = await openNegotiated(
    targetOf(options).address,
    {
      exportName: '',
      structuredReplies: false,
      extendedHeaders: false,
      metaContexts: [],
      listOnly: true,
    },
    openOptionsOf(options),
  );
  socket.end();
  return result.exportNames;
}

/**
 * Names of the metadata contexts that an export offers: those that match a query (a name, or a
 * namespace with its colon), all of them without one. Errors as `NbdClient.connect`; REFUSED also
 * when the server has no structured replies.
 */
export async function listMetaContexts(
  options: NbdConnectOptions,
  queries: readonly string[] = [],
): Promise<string[]> {
  const target = targetOf(options);
  const { socket, result } = await openNegotiated(
    target.address,
    {
      exportName: target.exportName,
      structuredReplies: true,
      extendedHeaders: false,
      metaContexts: queries,
      listOnly: false,
      listContexts: true,
    },
    openOptionsOf(options),
  );
  socket.end();
  return [...result.metaContexts.keys()];
}

/** Facts of an export without opening it (NBD_OPT_INFO). Errors as `NbdClient.connect`. */
export async function exportInfo(options: NbdConnectOptions): Promise<ExportInfo> {
  const target = targetOf(options);
  const { socket, result } = await openNegotiated(
    target.address,
    {
      exportName: target.exportName,
      structuredReplies: true,
      extendedHeaders: options.extendedHeaders ?? true,
      metaContexts: [],
      listOnly: false,
      infoOnly: true,
    },
    openOptionsOf(options),
  );
  socket.end();
  const { canonicalName, description, sizeBytes, flags, blockSizes } = result;
  return { name: canonicalName ?? target.exportName, description, sizeBytes, flags, blockSizes };
}

export function openOptionsOf(options: NbdConnectOptions): OpenOptions {
  return {
    network: options.network ?? systemNetwork,
    clock: options.clock ?? systemClock,
    signal: options.signal,
    connectTimeoutMs: options.connectTimeoutMs ?? defaultConnectTimeoutMs,
    greetingTimeoutMs: options.greetingTimeoutMs,
    tls: targetOf(options).tls,
  };
}
