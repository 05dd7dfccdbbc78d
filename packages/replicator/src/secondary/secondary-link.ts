import {
  StorError,
  decodePeerHeader,
  encodePongEntry,
  maxPeerChannels,
  newPeerHeader,
  parsePeerBody,
  peerFailureOf,
  peerFlagDrained,
  peerFrame,
  peerHeaderBytes,
  peerHello,
  peerOpen,
  peerPongEntryBytes,
  type PeerFrameType,
  type PeerHeader,
  type PeerHello,
  type PeerOpen,
  type PeerOpened,
  peerOpenReader,
  type PeerOpenReader,
  type PeerReaderOpened,
} from '@stor/protocol';
import type { Clock, Logger, SharedBytes, StreamSocket } from '@stor/runtime';

import { LinkOutput, type Outbox } from '../peer/outbox.ts';
import { encodeHello, encodeLoose, greetedVersion } from '../peer/peer-connection.ts';
import type { PeerIdentity } from '../peer/peer-connection.ts';
import { peerSpaceOf, regionBitmap, textOf } from '../peer/peer-snapshots.ts';
import {
  maxSecondaryBacklogBytes,
  maxSecondaryReplyBytes,
  secondaryIdleMs,
} from '../replication/limits.ts';
import type { ReplicaGate } from '../replication/replica-gate.ts';
import { snapshotsOf } from '../replication/snapshots-of.ts';
import type { BackgroundTurns } from '../background-turns.ts';
import type { ReplicaStore } from '../replica-store.ts';
import { LocalSnapshotReader } from '../snapshots/local-snapshot-reader.ts';
import { ReaderChannel } from './reader-channel.ts';
import { SecondaryChannel } from './secondary-channel.ts';

export interface SecondaryHost {
  readonly own: PeerIdentity;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly outbox: Outbox;
  readonly turns: BackgroundTurns;
  replica(id: string): ReplicaStore | null;
  gate(replicaId: string): ReplicaGate;
  /** how long a primary below this epoch may still count on a lease of the replica (ms) */
  leaseRemainingMs(replicaId: string, epoch: number): number;
  /** A replica failed while it followed (I7). */
  replicaFailed(store: ReplicaStore, error: StorError): void;
  linkEnded(link: SecondaryLink): void;
}

/** An accepted connection: the primaries of one lane of another node, and their channels here. */
export class SecondaryLink {
  readonly output: LinkOutput;
  readonly turns: BackgroundTurns;
  readonly #host: SecondaryHost;
  readonly #socket: StreamSocket;
  readonly #header = newPeerHeader();
  readonly #channels = new Map<number, SecondaryChannel>();
  readonly #readers = new Map<number, ReaderChannel>();
  /** channels whose fence is under way, with what ends them */
  readonly #opening = new Map<number, object>();
  #toAcknowledge: SecondaryChannel[] = [];
  #isReceiving = false;
  #hello: PeerHello | null = null;
  #heardMs: number;
  #backlogBytes = 0;
  #paused = false;
  #over = false;
  #lastPong = 0;

  constructor(socket: StreamSocket, host: SecondaryHost) {
    this.#socket = socket;
    this.#host = host;
    this.turns = host.turns;
    this.#heardMs = host.clock.monotonicMs();
    this.output = new LinkOutput(host.outbox, socket);
    this.output.onDrained = () => {
      this.#regulate();
    };
    socket.onData = (bytes, start, end) => this.#received(bytes, start, end);
    socket.onClose = () => {
      this.#end();
    };
  }

  /** Store calls of this link's channels, for an orderly close. */
  drained(): Promise<unknown> {
    return Promise.all([...this.#channels.values()].map((channel) => channel.session.drained()));
  }

  tick(): void {
    const nowMs = this.#host.clock.monotonicMs();
    for (const channel of [...this.#channels.values()]) {
      const { failure } = channel.session.store;
      if (failure) this.failed(channel, failure);
    }
    if (!this.#paused && nowMs - this.#heardMs > secondaryIdleMs) this.destroy();
  }

  destroy(): void {
    this.#socket.destroy();
    this.#end();
  }

  acknowledgeSoon(channel: SecondaryChannel): void {
    if (channel.ackQueued || this.#over) return;
    channel.ackQueued = true;
    this.#toAcknowledge.push(channel);
    // what was applied while frames are taken is acknowledged with the last of them
    if (this.#isReceiving || this.#toAcknowledge.length > 1) return;
    this.#host.clock.endOfTurn(() => {
      this.#acknowledge();
    });
  }

  /** At once: nothing else of this turn goes to this primary. */
  #acknowledge(): void {
    const channels = this.#toAcknowledge;
    if (channels.length === 0) return;
    this.#toAcknowledge = [];
    for (const each of channels) each.acknowledge();
    this.#host.outbox.flush();
  }

  keepReceived(bytes: number): SharedBytes | null {
    return this.#socket.keep?.(bytes) ?? null;
  }

  backlogChanged(bytes: number): void {
    this.#backlogBytes += bytes;
    this.#regulate();
  }

  failed(channel: SecondaryChannel, error: StorError): void {
    const { session } = channel;
    this.#host.replicaFailed(session.store, error);
    this.#closeChannel(channel, error);
  }

  #closeChannel(channel: SecondaryChannel, error: StorError): void {
    const { session } = channel;
    session.alive = false;
    this.#channels.delete(channel.number);
    this.#sendJson(peerFrame.closed, channel.segment, channel.number, 0, peerFailureOf(error));
  }

  #regulate(): void {
    const full =
      this.#backlogBytes > maxSecondaryBacklogBytes ||
      this.output.pendingBytes > maxSecondaryReplyBytes;
    if (full === this.#paused || this.#over) return;
    this.#paused = full;
    this.#heardMs = this.#host.clock.monotonicMs();
    if (full) this.#socket.pause();
    else this.#socket.resume();
  }

  #end(): void {
    if (this.#over) return;
    this.#over = true;
    this.output.close();
    this.#opening.clear();
    for (const channel of this.#channels.values()) channel.session.alive = false;
    for (const number of [...this.#readers.keys()]) this.#closeReader(number);
    this.#host.linkEnded(this);
  }

  #received(bytes: Buffer, start: number, end: number): number {
    this.#heardMs = this.#host.clock.monotonicMs();
    this.#isReceiving = true;
    const used = this.#take(bytes, start, end);
    this.#isReceiving = false;
    this.#acknowledge();
    return used;
  }

  #take(bytes: Buffer, start: number, end: number): number {
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
      const { logger } = this.#host;
      logger.warn({ peer: this.#socket.remote, error: failure.message }, 'peer broke the protocol');
      if (this.#hello) this.#socket.destroy();
      else {
        this.#socket.write(encodeLoose(peerFrame.closed, peerFailureOf(failure)));
        this.#socket.end();
      }
      // after this the memory of what was to be sent has other users, so nothing may be sent then
      this.#end();
      return end - start;
    }
    return this.#over ? end - start : at - start;
  }

  #frame(header: PeerHeader, bytes: Buffer, body: number): void {
    if (!this.#hello) {
      this.#greet(header, bytes, body);
      return;
    }
    switch (header.type) {
      case peerFrame.ping:
        this.#pong(header.sequence, header.offset);
        return;
      case peerFrame.open:
        this.#open(header, parsePeerBody(peerOpen, bytes, body, body + header.bodyBytes));
        return;
      case peerFrame.openReader:
        this.#openReader(
          header,
          parsePeerBody(peerOpenReader, bytes, body, body + header.bodyBytes),
        );
        return;
      case peerFrame.close: {
        this.#closeReader(header.channel);
        this.#opening.delete(header.channel);
        const channel = this.#channels.get(header.channel);
        this.#channels.delete(header.channel);
        if (!channel) return;
        const { session } = channel;
        const drained = (header.flags & peerFlagDrained) !== 0;
        this.#host.gate(session.store.replicaId).close(session, drained);
        return;
      }
      default: {
        // a frame of a channel that ended here a moment ago: the primary does not know yet
        const channel = this.#channels.get(header.channel) ?? this.#readers.get(header.channel);
        channel?.frame(header, bytes, body);
      }
    }
  }

  #greet(header: PeerHeader, bytes: Buffer, body: number): void {
    if (header.type !== peerFrame.hello) throw new StorError('PROTOCOL', 'no hello first');
    const hello = parsePeerBody(peerHello, bytes, body, body + header.bodyBytes);
    const version = greetedVersion(hello, this.#host.own, null);
    this.#hello = hello;
    this.#host.logger.debug({ peer: hello.nodeId, version }, 'a primary connects');
    this.#socket.write(encodeHello(this.#host.own));
  }

  /**
   * A pong says: none of the channels still open here is known to have a newer epoch (I6). A
   * channel that was displaced has sent its `closed` before this, on the same connection.
   */
  #pong(id: number, heardPong: number): void {
    this.#lastPong = id;
    const body = Buffer.alloc(this.#channels.size * peerPongEntryBytes);
    const nowMs = this.#host.clock.monotonicMs();
    let at = 0;
    for (const channel of this.#channels.values()) {
      channel.promise(nowMs);
      channel.pinged(heardPong);
      encodePongEntry(body, at, {
        channel: channel.number,
        markedCount: channel.markedCount,
        sequence: channel.appliedSequence,
        freeChunks: channel.freeChunksInPong(id),
      });
      at += peerPongEntryBytes;
    }
    this.output.send(peerFrame.pong, 0, 0, 0, id, 0, 0, body);
  }

  #openReader({ channel, segment, sequence }: PeerHeader, open: PeerOpenReader): void {
    if (this.#channels.size + this.#readers.size >= maxPeerChannels) {
      throw new StorError('PROTOCOL', 'too many channels on one connection');
    }
    this.#closeReader(channel);
    let opened: PeerReaderOpened;
    try {
      const { replicaId, volumeId, snapshotId } = open;
      const store = this.#host.replica(replicaId);
      if (!store) throw new StorError('NOT_FOUND', `there is no replica ${replicaId} here`);
      if (store.volumeId !== volumeId || store.segment !== segment) {
        throw new StorError('FAILED_PRECONDITION', `replica ${replicaId} is of another volume`);
      }
      const local = LocalSnapshotReader.of(store, snapshotId);
      this.#readers.set(
        channel,
        new ReaderChannel(channel, segment, local, this, open.runs === true),
      );
      opened = { sizeBytes: local.sizeBytes };
    } catch (error) {
      opened = { error: peerFailureOf(StorError.from(error)) };
    }
    this.#sendJson(peerFrame.readerOpened, segment, channel, sequence, opened);
  }

  #closeReader(number: number): void {
    this.#readers.get(number)?.close();
    this.#readers.delete(number);
  }

  #open(header: PeerHeader, open: PeerOpen): void {
    // the header object is reused for the next frame: take what is needed later
    const { channel: number, segment, sequence } = header;
    if (this.#channels.size + this.#opening.size >= maxPeerChannels) {
      throw new StorError('PROTOCOL', 'too many channels on one connection');
    }
    const older = this.#channels.get(number);
    if (older) older.session.alive = false;
    this.#channels.delete(number);
    const attempt = {};
    this.#opening.set(number, attempt);
    this.#fence(number, segment, open, attempt).then(
      (opened) => {
        if (opened) this.#sendJson(peerFrame.opened, segment, number, sequence, opened);
      },
      (error: unknown) => {
        if (this.#opening.get(number) !== attempt) return;
        this.#opening.delete(number);
        const failed = { error: peerFailureOf(StorError.from(error)) };
        this.#sendJson(peerFrame.opened, segment, number, sequence, failed);
      },
    );
  }

  async #fence(
    number: number,
    segment: number,
    open: PeerOpen,
    attempt: object,
  ): Promise<PeerOpened | null> {
    const store = this.#host.replica(open.replicaId);
    if (!store) throw new StorError('NOT_FOUND', `there is no replica ${open.replicaId} here`);
    // the sizes may differ: it was away while the volume grew, or it has grown ahead of the record
    if (store.volumeId !== open.volumeId || store.segment !== segment) {
      throw new StorError('FAILED_PRECONDITION', `replica ${open.replicaId} is of another volume`);
    }
    const holder = `${this.#hello?.nodeId ?? ''} ${this.#hello?.agentInstance ?? ''}`;
    const gate = this.#host.gate(open.replicaId);
    const session = await gate.open(store, open.epoch, holder, (reason) => {
      const channel = this.#channels.get(number);
      // sent now, before any later pong of this link (I6)
      if (channel && !channel.session.alive) this.#closeChannel(channel, reason);
    });
    if (this.#over || this.#opening.get(number) !== attempt) {
      gate.close(session);
      return null;
    }
    if (!session.alive) throw new StorError('ABORTED', 'the replica was opened again meanwhile');
    this.#opening.delete(number);
    const { replicaId, epoch } = open;
    this.#host.logger.debug({ replica: replicaId, epoch }, 'the replica is fenced');
    const channel = new SecondaryChannel(
      ...([number, segment, session, gate.promises, this, this.#lastPong] as const),
    );
    const runs = open.runs === true;
    channel.runs = runs;
    this.#channels.set(number, channel);
    const leaseRemainingMs = this.#host.leaseRemainingMs(replicaId, epoch);
    // an accepted open is a lease too
    channel.promise(this.#host.clock.monotonicMs());
    return {
      diskId: store.diskId,
      keptMemory: store.keptMemory && store.failure === null,
      failure: store.failure && peerFailureOf(store.failure),
      highestEpoch: store.highestEpoch,
      setView: store.setView,
      generation: store.generation,
      marks: textOf(regionBitmap(store, store.marks()), runs),
      ...peerSpaceOf(store, channel.freeChunks, runs),
      snapshots: snapshotsOf(store)?.snapshots() ?? [],
      headParent: snapshotsOf(store)?.headParent ?? null,
      leaseRemainingMs: Math.ceil(leaseRemainingMs),
      turns: true,
      ...(session.drainedEpoch === null ? {} : { drainedEpoch: session.drainedEpoch }),
    };
  }

  #sendJson(
    type: PeerFrameType,
    segment: number,
    channel: number,
    sequence: number,
    value: object,
  ): void {
    const body = Buffer.from(JSON.stringify(value));
    this.output.send(type, 0, segment, channel, sequence, 0, 0, body);
  }
}
