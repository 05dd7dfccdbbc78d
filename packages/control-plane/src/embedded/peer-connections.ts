import type { Clock, Logger, Random } from '@stor/runtime';
import type { RpcChannel, RpcTransport } from '../rpc/rpc-transport.ts';
import type { MemberBook } from './member-book.ts';
import { PeerLink } from './peer-link.ts';
import { callMetadata, type CallerIdentity } from './raft-rpc.ts';

export interface PeerConnectionsOptions {
  self: CallerIdentity;
  book: MemberBook;
  transport: RpcTransport;
  clock: Clock;
  random: Random;
  logger: Logger;
}

/** The way to each other member, made when it is first needed and anew when its address changes. */
export class PeerConnections {
  readonly #options: PeerConnectionsOptions;
  readonly #links = new Map<string, { address: string; link: PeerLink }>();
  readonly #channels = new Map<string, RpcChannel>();
  #isClosed = false;
  /** told of a member to which the connection has broken or could not be made */
  onBroken: (id: string) => void = () => {};

  constructor(options: PeerConnectionsOptions) {
    this.#options = options;
  }

  /** Never blocks nor throws: what cannot be sent is lost, and Raft sends it again. */
  send(to: string, batch: Uint8Array): void {
    this.#link(to)?.send(batch);
  }

  /** For calls; null while its address is not known. */
  channel(id: string): RpcChannel | null {
    const address = this.#options.book.address(id);
    if (address === null || this.#isClosed) return null;
    const known = this.#channels.get(id);
    if (known?.address === address) return known;
    known?.close();
    const channel = this.#options.transport.channel(address, 'raft');
    this.#channels.set(id, channel);
    return channel;
  }

  metadata(to: string): Record<string, string> {
    return callMetadata(this.#options.self, to);
  }

  closeLinks(): void {
    this.#isClosed = true;
    for (const { link } of this.#links.values()) link.close();
  }

  closeChannels(): void {
    for (const channel of this.#channels.values()) channel.close();
  }

  #link(id: string): PeerLink | null {
    const { book, self, transport, clock, random, logger } = this.#options;
    const address = book.address(id);
    if (address === null || this.#isClosed || id === self.id) return null;
    const known = this.#links.get(id);
    if (known?.address === address) return known.link;
    known?.link.close();
    const metadata = callMetadata(self, id);
    const broken = (): void => {
      this.onBroken(id);
    };
    const link = new PeerLink({ address, metadata, clock, random, logger, transport, broken });
    this.#links.set(id, { address, link });
    return link;
  }
}
