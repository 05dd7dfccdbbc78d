import { StorError, type NodeId } from '@stor/protocol';
import { NbdError, ReconnectingNbdClient } from 'nbd-client-js';
import { nbdPlaces } from './core/device-addresses.ts';
import { exportAddresses, type HostTls } from './export-addresses.ts';
import type { AllocationProbe } from './host-tools.ts';
import type { VolumePort } from './volume-port.ts';

/** Asked about at once: what fits into a request of any form, in whole chunks (bytes). */
const stepBytes = 2 ** 31;
/** Whoever is asked for the first time may have to become primary (ms). */
const connectMs = 45_000;

/** Asks the volume's primary over NBD which of its bytes were ever written. */
export class NbdAllocation implements AllocationProbe {
  readonly #volumes: VolumePort;
  readonly #nodeId: NodeId;
  readonly #tls: HostTls | null;

  constructor(options: { volumes: VolumePort; nodeId: NodeId; tls: HostTls | null }) {
    this.#volumes = options.volumes;
    this.#nodeId = options.nodeId;
    this.#tls = options.tls;
  }

  /** UNAVAILABLE when nobody answers. */
  async hasData(exportName: string, signal: AbortSignal): Promise<boolean> {
    const { nodes } = await this.#volumes.listNodes({}, { signal });
    const addresses = exportAddresses(
      nbdPlaces(nodes, this.#nodeId, { nbdUri: '' }),
      exportName,
      this.#tls,
    );
    try {
      const client = await ReconnectingNbdClient.connect({
        addresses,
        exportName,
        firstGiveUpMs: connectMs,
        signal,
      });
      try {
        return await anyData(client, signal);
      } finally {
        await client.disconnect();
      }
    } catch (error) {
      if (!(error instanceof NbdError)) throw error;
      const code = error.code === 'ABORTED' ? 'ABORTED' : 'UNAVAILABLE';
      throw new StorError(code, `nobody says what is on the volume: ${error.message}`, {
        cause: error,
      });
    }
  }
}

async function anyData(
  client: Pick<ReconnectingNbdClient, 'sizeBytes' | 'blockStatus'>,
  signal: AbortSignal,
): Promise<boolean> {
  for (let offset = 0; offset < client.sizeBytes;) {
    const length = Math.min(stepBytes, client.sizeBytes - offset);
    const extents = await client.blockStatus(offset, length, { signal });
    if (extents.some(({ zero }) => !zero)) return true;
    const told = extents.reduce((sum, extent) => sum + extent.length, 0);
    // a server that tells nothing has told nothing good
    if (told === 0) return true;
    offset += told;
  }
  return false;
}
