import { randomBytes } from 'node:crypto';
import { isPublicationEnded, StorError } from '@stor/protocol';
import type { Clock } from '@stor/runtime';
import { NbdError, type ExportAddress } from 'nbd-client-js';
import { openForKernel, type GrantedSocket, type TcpAddress } from './kernel-nbd-socket.ts';

/** Between two rounds of tries (ms): it adds to the outage that a user sees. */
const roundPauseMs = 250;

/**
 * Finds a node that grants the volume, one after another in the order given: to ask for it may move it.
 * A kernel takes TCP in the clear alone, so other addresses are left out.
 */
export class KernelNbdSearch {
  readonly #exportName: string;
  readonly #clock: Clock;
  /** the same for all connections of this device, and of no other */
  readonly #id = randomBytes(16).toString('hex');
  #tries = 0;
  #addresses: readonly TcpAddress[];

  /** Throws FAILED_PRECONDITION for addresses of which a kernel can use none. */
  constructor(exportName: string, addresses: readonly ExportAddress[], clock: Clock) {
    this.#exportName = exportName;
    this.#clock = clock;
    this.#addresses = usable(addresses);
  }

  /** From the next round on. */
  setAddresses(addresses: readonly ExportAddress[]): void {
    this.#addresses = usable(addresses);
  }

  /**
   * FAILED_PRECONDITION: the right to the volume has ended, or, with `isFirst`, every node refuses;
   * UNAVAILABLE: none within `leftMs`; ABORTED.
   */
  async find(isFirst: boolean, leftMs: number, signal: AbortSignal): Promise<GrantedSocket> {
    const untilMs = this.#clock.monotonicMs() + leftMs;
    for (;;) {
      const reasons: string[] = [];
      let refusals = 0;
      for (const address of this.#addresses) {
        try {
          return await this.#try(address, signal);
        } catch (error) {
          if (signal.aborted) throw new StorError('ABORTED', 'connecting was aborted');
          const { message } = error as Error;
          reasons.push(`${address.host}:${address.port}: ${message}`);
          const isRefusal = error instanceof NbdError && error.code === 'REFUSED';
          if (isRefusal && isPublicationEnded(message, this.#exportName)) throw refused(message);
          if (isRefusal) refusals += 1;
        }
      }
      const text = reasons.join('; ');
      if (isFirst && refusals === reasons.length) throw refused(text);
      if (this.#clock.monotonicMs() >= untilMs) {
        throw new StorError('UNAVAILABLE', `no node serves the volume: ${text}`);
      }
      await new Promise<void>((resolve) => {
        this.#clock.after(roundPauseMs, resolve);
      });
      if (signal.aborted) throw new StorError('ABORTED', 'connecting was aborted');
    }
  }

  #try(address: TcpAddress, signal: AbortSignal): Promise<GrantedSocket> {
    this.#tries += 1;
    const identity = { id: this.#id, sequence: [this.#tries] };
    const clock = this.#clock;
    return openForKernel(address, this.#exportName, identity, { clock, signal });
  }
}

function refused(why: string): StorError {
  return new StorError('FAILED_PRECONDITION', `the volume is refused: ${why}`);
}

/** A URI names files of TLS, and a UNIX socket is not proven with a kernel. */
function usable(addresses: readonly ExportAddress[]): TcpAddress[] {
  const tcp = addresses.flatMap((address) =>
    typeof address === 'object' && 'port' in address ? [address] : [],
  );
  if (tcp.length > 0) return tcp;
  const text =
    'a device of means nbd-kernel needs nodes that serve TCP without TLS: use fuse-loop here';
  throw new StorError('FAILED_PRECONDITION', text);
}
