import {
  StorError,
  errorOfPeer,
  parsePeerBody,
  peerClosed,
  peerControlReply,
  peerFrame,
  peerReaderOpened,
  type PeerControl,
  type PeerHeader,
  type ReplicaId,
  type SnapshotId,
} from '@stor/protocol';
import type { Clock } from '@stor/runtime';

import type { Bitmap } from '../core/replication/bitmap.ts';
import type { Extent } from '../block-device.ts';
import type { ChannelListener, PeerConnection } from '../peer/peer-connection.ts';
import type { PeerDirectory } from '../peer/peer-directory.ts';
import { chunksOfPeer } from '../peer/peer-snapshots.ts';
import { misfit, takeVerified } from '../primary/remote-replies.ts';
import type { StoreDone } from '../replica-store.ts';
import { dirtyExtents } from './dirty-extents.ts';
import type { DirtyDone, ExtentsDone, ReplicaSnapshotReader } from './snapshot-reader.ts';

/** A node that owes an answer for so long is left for another replica (ms). */
const answerMs = 15_000;
/** One request to the other node; a longer read is asked for in parts (bytes). */
const partBytes = 1024 * 1024;
/** Extents that one answer may hold. */
const maxExtents = 4_096;
/** Snapshots whose differences are kept: neither side of one ever changes. */
const maxKept = 16;

type Reply = (
  error: StorError | null,
  header: PeerHeader | null,
  bytes: Buffer,
  at: number,
) => void;

export interface PeerReaderOptions {
  replica: { replicaId: ReplicaId; nodeId: string; host: string; port: number };
  volumeId: string;
  segment: number;
  snapshotId: SnapshotId;
  channel: number;
  directory: PeerDirectory;
  clock: Clock;
}

/** A snapshot on a disk of another lane: a channel of its own on the connection to that. */
export class PeerSnapshotReader implements ReplicaSnapshotReader, ChannelListener {
  readonly replicaId: ReplicaId;
  sizeBytes = 0;
  readonly #options: PeerReaderOptions;
  readonly #connection: PeerConnection;
  readonly #waiting = new Map<number, { reply: Reply; cancelTimer: () => void }>();
  readonly #changed = new Map<SnapshotId, Bitmap>();
  #nextId = 1;
  #over: StorError | null = null;

  private constructor(options: PeerReaderOptions, connection: PeerConnection) {
    this.replicaId = options.replica.replicaId;
    this.#options = options;
    this.#connection = connection;
  }

  /** NOT_FOUND: that replica does not have it. UNAVAILABLE, TIMEOUT, PROTOCOL. */
  static async open(options: PeerReaderOptions): Promise<PeerSnapshotReader> {
    const { nodeId, host, port, replicaId } = options.replica;
    const connection = await options.directory.get(nodeId, host, port);
    if (connection.over) throw connection.over;
    const reader = new PeerSnapshotReader(options, connection);
    connection.attachChannel(options.channel, reader);
    const { volumeId, segment, snapshotId } = options;
    const open = { volumeId, segment, replicaId, snapshotId, runs: true };
    const body = Buffer.from(JSON.stringify(open));
    await new Promise<void>((resolve, reject) => {
      reader.#ask(peerFrame.openReader, 0, 0, body, (error, header, bytes, at) => {
        try {
          if (error || header?.type !== peerFrame.readerOpened) throw error ?? misfit();
          const opened = parsePeerBody(peerReaderOpened, bytes, at, at + header.bodyBytes);
          if ('error' in opened) throw errorOfPeer(opened.error);
          reader.sizeBytes = opened.sizeBytes;
          resolve();
        } catch (thrown) {
          reader.close();
          reject(StorError.from(thrown));
        }
      });
    });
    return reader;
  }

  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void {
    let open = Math.ceil(length / partBytes);
    let failed: StorError | null = null;
    for (let at = 0; at < length; at += partBytes) {
      const part = Math.min(partBytes, length - at);
      this.#ask(peerFrame.read, offset + at, part, null, (error, header, bytes, body) => {
        if (error) failed ??= error;
        else if (header?.type !== peerFrame.readReply || header.length !== part)
          failed ??= misfit();
        // after a failure the target may have another use
        else if (!failed) failed = takeVerified(bytes, body, part, target, start + at);
        open -= 1;
        if (open === 0) done(failed);
      });
    }
  }

  extents(offset: number, length: number, limit: number, done: ExtentsDone): void {
    const asked = Math.min(limit, maxExtents);
    this.#control({ op: 'extents', offset, length, limit: asked }, (error, reply) => {
      const numbers = reply?.extents;
      if (error || !numbers || numbers.length % 3 !== 0) {
        done(error ?? misfit(), []);
        return;
      }
      const extents: Extent[] = [];
      for (let at = 0; at < numbers.length; at += 3) {
        const [from = 0, bytes = 0, allocated = 1] = numbers.slice(at, at + 3);
        extents.push({ offset: from, length: bytes, allocated: allocated !== 0 });
      }
      done(null, extents);
    });
  }

  changedSince(
    since: SnapshotId,
    offset: number,
    length: number,
    limit: number,
    done: DirtyDone,
  ): void {
    const known = this.#changed.get(since);
    if (known) {
      done(null, dirtyExtents(known, offset, length, limit));
      return;
    }
    const { snapshotId } = this.#options;
    this.#control({ op: 'changed-chunks', from: since, to: snapshotId }, (error, reply) => {
      if (error || reply?.chunks === undefined) done(error ?? misfit(), []);
      else if (reply.chunks === null) {
        const message = `replica ${this.replicaId} does not have snapshot ${since}`;
        done(new StorError('NOT_FOUND', message), []);
      } else {
        const changed = chunksOfPeer(reply.chunks, this.sizeBytes);
        if (this.#changed.size < maxKept) this.#changed.set(since, changed);
        done(null, dirtyExtents(changed, offset, length, limit));
      }
    });
  }

  /** Left to a scrub of the volume: whoever reads a snapshot writes to no other node's disk. */
  repair(_offset: number, _bytes: Uint8Array, done: StoreDone): void {
    const message = `replica ${this.replicaId} is on another node: a scrub repairs it`;
    done(new StorError('FAILED_PRECONDITION', message));
  }

  close(): void {
    if (this.#over) return;
    const { channel, segment } = this.#options;
    if (!this.#connection.over) {
      this.#connection.output.send(peerFrame.close, 0, segment, channel, 0, 0, 0, null);
    }
    this.#end(new StorError('ABORTED', 'the snapshot is not read any more'));
  }

  // what the channel hears

  answered(header: PeerHeader, bytes: Buffer, start: number): void {
    const waiting = this.#waiting.get(header.sequence);
    if (!waiting) return;
    this.#waiting.delete(header.sequence);
    waiting.cancelTimer();
    if (header.type === peerFrame.requestFailed) {
      const failed = parsePeerBody(peerClosed, bytes, start, start + header.bodyBytes);
      waiting.reply(errorOfPeer(failed), null, bytes, 0);
    } else waiting.reply(null, header, bytes, start);
  }

  closed(error: StorError): void {
    this.#end(error);
  }
  lost(error: StorError): void {
    this.#end(error);
  }
  acknowledged(): void {}
  flushed(): void {}
  pong(): void {}
  renewed(): void {}

  #control(
    control: PeerControl,
    done: (
      error: StorError | null,
      reply: ReturnType<typeof peerControlReply.parse> | null,
    ) => void,
  ): void {
    const body = Buffer.from(JSON.stringify(control));
    this.#ask(peerFrame.control, 0, 0, body, (error, header, bytes, at) => {
      if (error || header?.type !== peerFrame.controlReply) done(error ?? misfit(), null);
      else done(null, parsePeerBody(peerControlReply, bytes, at, at + header.bodyBytes));
    });
  }

  #ask(
    type: 20 | typeof peerFrame.read | typeof peerFrame.control,
    offset: number,
    length: number,
    body: Uint8Array | null,
    reply: Reply,
  ): void {
    if (this.#over) {
      const over = this.#over;
      queueMicrotask(() => {
        reply(over, null, Buffer.alloc(0), 0);
      });
      return;
    }
    const { channel, segment, clock, replica } = this.#options;
    const id = this.#nextId++;
    const cancelTimer = clock.after(answerMs, () => {
      const message = `${replica.nodeId} has owed an answer for ${answerMs / 1_000} s`;
      this.#end(new StorError('TIMEOUT', message));
    });
    this.#waiting.set(id, { reply, cancelTimer });
    this.#connection.output.send(type, 0, segment, channel, id, offset, length, body);
  }

  #end(error: StorError): void {
    if (this.#over) return;
    this.#over = error;
    this.#connection.detachChannel(this.#options.channel, this);
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reply, cancelTimer } of waiting) {
      cancelTimer();
      reply(error, null, Buffer.alloc(0), 0);
    }
  }
}
