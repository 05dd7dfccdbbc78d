import type { Network } from '@stor/runtime';
import { NbdClient, NbdError, ReconnectingNbdClient, type NbdNetwork } from 'nbd-client-js';

import type { ProcessClock } from '../world/process-clock.ts';
import type { ClientLink, Io, IoOutcome, SimVolume } from './sim-cluster.ts';

type Client = NbdClient | ReconnectingNbdClient;

/** After this without a server a reconnecting client fails its requests (ms): longer than any fault. */
const giveUpMs = 400_000;

export interface NbdLinkOptions {
  network: Network;
  clock: ProcessClock;
  volume: SimVolume;
  /** the first one is tried first; a plain client tries no other */
  addresses: { host: string; port: number }[];
  /** it finds another node by itself and sends again what was not answered */
  reconnects: boolean;
  chance: () => number;
}

/** A client over the simulated network, with the product's own NBD library. */
export class NbdLink implements ClientLink {
  isOpen = true;
  /** a plain client that sends a write again might overtake the first one's late effect */
  readonly mayResend = false;
  readonly #client: Client;

  private constructor(client: Client) {
    this.#client = client;
  }

  static async open(options: NbdLinkOptions): Promise<NbdLink> {
    const { clock, addresses, volume, chance } = options;
    const network: NbdNetwork = options.network;
    const common = { exportName: volume.name, network, clock };
    const [first] = addresses;
    if (!first) throw new Error('no address');
    if (!options.reconnects) {
      const limits = { connectTimeoutMs: 35_000, greetingTimeoutMs: 3_000 };
      return new NbdLink(await NbdClient.connect({ ...common, ...first, ...limits }));
    }
    const client = await ReconnectingNbdClient.connect({
      ...common,
      addresses,
      chance,
      giveUpMs,
      firstGiveUpMs: 60_000,
    });
    return new NbdLink(client);
  }

  async submit(io: Io): Promise<IoOutcome> {
    if (!this.isOpen) return 'lost';
    try {
      await this.#run(io);
      return 'done';
    } catch (error) {
      if (!(error instanceof NbdError)) throw error;
      if (isLoss(error)) {
        this.isOpen = false;
        return 'lost';
      }
      return { error: `${error.code}: ${error.message}` };
    }
  }

  get sizeBytes(): number {
    return this.#client.sizeBytes;
  }

  close(): void {
    this.isOpen = false;
    void this.#client.close();
  }

  async #run({ kind, offset, length, bytes, fua, noHole }: Io): Promise<void> {
    const client = this.#client;
    switch (kind) {
      case 'read': {
        if (bytes) await client.read(offset, length, bytes);
        return;
      }
      case 'write':
        if (bytes) await client.write(offset, bytes, { fua });
        return;
      case 'zero':
        await client.writeZeroes(offset, length, { fua, noHole });
        return;
      case 'trim':
        await client.trim(offset, length, { fua });
        return;
      case 'flush':
        await client.flush();
    }
  }
}

/** The connection is over; the server may or may not have done it. */
function isLoss(error: NbdError): boolean {
  if (['DISCONNECTED', 'ABORTED', 'TIMEOUT'].includes(error.code)) return true;
  // a server that gives the volume up says so, and what it says of the request is nothing
  return error.errnoName === 'ESHUTDOWN';
}
