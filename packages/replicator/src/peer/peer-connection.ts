import {
  StorError,
  commonVersion,
  decodePeerHeader,
  decodePongEntry,
  errorOfPeer,
  helloVersions,
  newPeerHeader,
  parsePeerBody,
  peerClosed,
  peerFrame,
  peerHeaderBytes,
  peerHello,
  peerPingMs,
  peerPongEntryBytes,
  peerSilenceMs,
  peerVersions,
  replicaLeaseMs,
  versionsOfHello,
  type PeerHeader,
  type PeerHello,
  type VersionRange,
} from '@stor/protocol';
import type { Clock, StreamSocket } from '@stor/runtime';

import { peerHandshakeMs, tickMs } from '../replication/limits.ts';
import { LinkOutput, type Outbox } from './outbox.ts';

/** What a channel of a primary hears. `bytes` of a body are valid only during the call. */
export interface ChannelListener {
  acknowledged(sequence: number, appliedBytes: number, freeChunks: number): void;
  flushed(sequence: number): void;
  answered(header: PeerHeader, bytes: Buffer, start: number): void;
  pong(sequence: number, freeChunks: number, markedCount: number): void;
  /** The leases of this connection were renewed. */
  renewed(): void;
  /** The secondary ended the channel, or one of the same number before it. */
  closed(error: StorError): void;
  /** The connection is over. */
  lost(error: StorError): void;
}

/**
 * A primary's connection to one lane of another node, after both hellos. It pings; a pong renews
 * the replica leases of all its channels, counted from when the ping was sent (I6).
 */
export class PeerConnection {
  readonly nodeId: string;
  /** of the peer protocol: what both sides speak */
  readonly version: number;
  /** the process at the other end */
  readonly agentInstance: string;
  readonly output: LinkOutput;
  /** Leases of this connection's channels run until then on the monotonic clock. */
  leaseUntilMs = 0;
  readonly #socket: StreamSocket;
  readonly #clock: Clock;
  readonly #channels = new Map<number, ChannelListener>();
  readonly #header = newPeerHeader();
  readonly #pings: { id: number; sentMs: number }[] = [];
  #pingId = 0;
  #heardPong = 0;
  #lastPingMs = -Infinity;
  #heardMs: number;
  #lastTickMs: number;
  #over: StorError | null = null;
  readonly #onOver: () => void;

  constructor(
    socket: StreamSocket,
    { nodeId, version, agentInstance }: { nodeId: string } & PeerGreeting,
    clock: Clock,
    outbox: Outbox,
    onOver: () => void,
  ) {
    this.#socket = socket;
    this.nodeId = nodeId;
    this.version = version;
    this.agentInstance = agentInstance;
    this.#clock = clock;
    this.output = new LinkOutput(outbox, socket);
    this.#heardMs = clock.monotonicMs();
    this.#lastTickMs = this.#heardMs;
    this.#onOver = onOver;
    socket.onData = (bytes, start, end) => this.#received(bytes, start, end);
    socket.onClose = (error) => {
      this.#end(
        new StorError('UNAVAILABLE', `the connection to ${nodeId} ended`, { cause: error }),
      );
    };
  }

  get over(): StorError | null {
    return this.#over;
  }

  attachChannel(channel: number, listener: ChannelListener): void {
    this.#channels.set(channel, listener);
  }

  detachChannel(channel: number, listener: ChannelListener): void {
    if (this.#channels.get(channel) === listener) this.#channels.delete(channel);
  }

  get channelCount(): number {
    return this.#channels.size;
  }

  /** Pings when it is time, and gives the peer up after its silence. */
  tick(): void {
    if (this.#over) return;
    const nowMs = this.#clock.monotonicMs();
    // a process that was stopped must read what has arrived before it may speak of silence
    const stalled = nowMs - this.#lastTickMs > 4 * tickMs;
    this.#lastTickMs = nowMs;
    if (stalled) this.#heardMs = Math.max(this.#heardMs, nowMs - peerSilenceMs + 2 * tickMs);
    else if (nowMs - this.#heardMs > peerSilenceMs) {
      this.destroy(`${this.nodeId} was silent for ${peerSilenceMs} ms`);
      return;
    }
    if (nowMs - this.#lastPingMs >= peerPingMs - 1) this.ping(nowMs);
  }

  ping(nowMs: number): void {
    this.#lastPingMs = nowMs;
    this.#pingId += 1;
    this.#pings.push({ id: this.#pingId, sentMs: nowMs });
    this.output.send(peerFrame.ping, 0, 0, 0, this.#pingId, this.#heardPong, 0, null);
  }

  destroy(reason: string): void {
    this.#end(new StorError('UNAVAILABLE', reason));
    this.#socket.destroy();
  }

  #end(error: StorError): void {
    if (this.#over) return;
    this.#over = error;
    this.output.close();
    const listeners = [...this.#channels.values()];
    this.#channels.clear();
    this.#onOver();
    for (const listener of listeners) listener.lost(error);
  }

  #received(bytes: Buffer, start: number, end: number): number {
    this.#heardMs = this.#clock.monotonicMs();
    let at = start;
    try {
      while (!this.#over && end - at >= peerHeaderBytes) {
        decodePeerHeader(bytes, at, this.#header);
        const next = at + peerHeaderBytes + this.#header.bodyBytes;
        if (next > end) {
          this.#socket.expect?.(next - at);
          break;
        }
        this.#frame(this.#header, bytes, at + peerHeaderBytes);
        at = next;
      }
    } catch (error) {
      const failure = StorError.from(error);
      this.#end(failure);
      this.#socket.destroy(failure);
      return end - start;
    }
    return this.#over ? end - start : at - start;
  }

  #frame(header: PeerHeader, bytes: Buffer, body: number): void {
    if (header.type === peerFrame.pong) {
      this.#pong(header, bytes, body);
      return;
    }
    const listener = this.#channels.get(header.channel);
    if (!listener) return;
    switch (header.type) {
      case peerFrame.ack:
        listener.acknowledged(header.sequence, header.offset, header.length);
        return;
      case peerFrame.flushed:
        listener.flushed(header.sequence);
        return;
      case peerFrame.closed: {
        const failed = parsePeerBody(peerClosed, bytes, body, body + header.bodyBytes);
        listener.closed(errorOfPeer(failed));
        return;
      }
      case peerFrame.opened:
      case peerFrame.readerOpened:
      case peerFrame.readReply:
      case peerFrame.sumsReply:
      case peerFrame.controlReply:
      case peerFrame.requestFailed:
        listener.answered(header, bytes, body);
        return;
      default:
        throw new StorError('PROTOCOL', `a secondary sent a frame of type ${header.type}`);
    }
  }

  #pong(header: PeerHeader, bytes: Buffer, body: number): void {
    while (this.#pings.length > 0) {
      const ping = this.#pings[0];
      if (!ping || ping.id > header.sequence) break;
      this.#pings.shift();
      if (ping.id !== header.sequence) continue;
      this.leaseUntilMs = Math.max(this.leaseUntilMs, ping.sentMs + replicaLeaseMs);
    }
    for (let at = 0; at < header.bodyBytes; at += peerPongEntryBytes) {
      const entry = decodePongEntry(bytes, body + at);
      this.#channels.get(entry.channel)?.pong(entry.sequence, entry.freeChunks, entry.markedCount);
    }
    // said in the next ping: what is sent from now on counts on no more credits than these
    this.#heardPong = header.sequence;
    for (const listener of [...this.#channels.values()]) listener.renewed();
  }
}

/** Who says hello, and which versions it speaks @default `peerVersions` */
export interface PeerIdentity extends Pick<PeerHello, 'clusterId' | 'nodeId' | 'agentInstance'> {
  versions?: VersionRange;
}

/** What the hellos came to. */
export interface PeerGreeting {
  /** of the peer protocol: what both sides speak */
  version: number;
  /** of the peer */
  agentInstance: string;
}

/**
 * Says hello on a new socket and waits for the peer's. PROTOCOL, FOREIGN_DATA, TIMEOUT.
 */
export function greetPeer(
  socket: StreamSocket,
  own: PeerIdentity,
  expectNodeId: string,
  clock: Clock,
): Promise<PeerGreeting> {
  return new Promise((resolve, reject) => {
    const header = newPeerHeader();
    const finish = (error: StorError | null, greeting: PeerGreeting | null): void => {
      cancel();
      socket.onClose = () => {};
      // nothing follows a hello before the first request, so nothing is lost here
      socket.onData = (_bytes, start, end) => end - start;
      if (greeting) resolve(greeting);
      else {
        socket.destroy();
        reject(error ?? new StorError('PROTOCOL', `${socket.remote} sent no hello`));
      }
    };
    const cancel = clock.after(peerHandshakeMs, () => {
      finish(new StorError('TIMEOUT', `${socket.remote} sent no hello`), null);
    });
    socket.onClose = (cause) => {
      finish(new StorError('UNAVAILABLE', `${socket.remote} closed`, { cause }), null);
    };
    socket.onData = (bytes, start, end) => {
      try {
        if (end - start < peerHeaderBytes) return 0;
        decodePeerHeader(bytes, start, header);
        if (header.type === peerFrame.closed) {
          const bodyEnd = start + peerHeaderBytes + header.bodyBytes;
          if (bodyEnd > end) return 0;
          throw errorOfPeer(parsePeerBody(peerClosed, bytes, start + peerHeaderBytes, bodyEnd));
        }
        if (header.type !== peerFrame.hello) throw new StorError('PROTOCOL', 'no hello first');
        const bodyEnd = start + peerHeaderBytes + header.bodyBytes;
        if (bodyEnd > end) return 0;
        const hello = parsePeerBody(peerHello, bytes, start + peerHeaderBytes, bodyEnd);
        const version = greetedVersion(hello, own, expectNodeId);
        finish(null, { version, agentInstance: hello.agentInstance });
        return bodyEnd - start;
      } catch (error) {
        finish(StorError.from(error), null);
        return end - start;
      }
    };
    socket.write(encodeHello(own));
  });
}

/** The version to speak with whoever sent this hello. PROTOCOL, FOREIGN_DATA, UNAVAILABLE. */
export function greetedVersion(
  hello: PeerHello,
  own: PeerIdentity,
  expectNodeId: string | null,
): number {
  if (hello.clusterId !== own.clusterId) {
    throw new StorError(
      'FOREIGN_DATA',
      `the peer belongs to cluster ${hello.clusterId}, this node to ${own.clusterId}`,
    );
  }
  const version = commonVersion(own.versions ?? peerVersions, versionsOfHello(hello), {
    protocol: 'the peer protocol',
    own: `node ${own.nodeId}`,
    other: `node ${hello.nodeId}`,
  });
  if (expectNodeId !== null && hello.nodeId !== expectNodeId) {
    throw new StorError('UNAVAILABLE', `found node ${hello.nodeId} in place of ${expectNodeId}`);
  }
  return version;
}

export function encodeHello({ versions = peerVersions, ...own }: PeerIdentity): Buffer {
  const { clusterId, nodeId, agentInstance } = own;
  const hello: PeerHello = { ...helloVersions(versions), clusterId, nodeId, agentInstance };
  return encodeLoose(peerFrame.hello, hello);
}

/** A JSON frame outside of any batch, for the handshake. */
export function encodeLoose(type: typeof peerFrame.hello | typeof peerFrame.closed, body: object) {
  const json = Buffer.from(JSON.stringify(body));
  const frame = Buffer.alloc(peerHeaderBytes + json.length);
  frame[0] = type;
  frame.writeUInt32BE(json.length, 28);
  json.copy(frame, peerHeaderBytes);
  return frame;
}
