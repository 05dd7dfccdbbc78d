import {
  StorError,
  blockBytes,
  hasCode,
  parsePeerBody,
  peerControl,
  peerFailureOf,
  peerFrame,
  type PeerControl,
  type PeerControlReply,
  type PeerFrameType,
  type PeerHeader,
} from '@stor/protocol';
import { crc32 } from '@stor/runtime';

import { textOf } from '../peer/peer-snapshots.ts';
import { dirtyBitmap } from '../snapshots/dirty-extents.ts';
import type { LocalSnapshotReader } from '../snapshots/local-snapshot-reader.ts';
import type { ChannelOwner } from './secondary-channel.ts';

/**
 * A ready snapshot of a replica here, as another node reads it. It changes nothing and needs no epoch,
 * so it lives beside the primary's channels and ends with its link, or when the snapshot is gone.
 */
export class ReaderChannel {
  readonly number: number;
  readonly segment: number;
  readonly #reader: LocalSnapshotReader;
  readonly #owner: Pick<ChannelOwner, 'output' | 'backlogChanged'>;
  /** who reads takes bitmaps as runs */
  readonly #runs: boolean;
  #isOpen = true;

  constructor(
    number: number,
    segment: number,
    reader: LocalSnapshotReader,
    owner: Pick<ChannelOwner, 'output' | 'backlogChanged'>,
    runs: boolean,
  ) {
    this.number = number;
    this.segment = segment;
    this.#reader = reader;
    this.#owner = owner;
    this.#runs = runs;
  }

  get sizeBytes(): number {
    return this.#reader.sizeBytes;
  }

  /** One frame of the reader; `body` is where its body begins. Throws PROTOCOL. */
  frame(header: PeerHeader, bytes: Buffer, body: number): void {
    const { offset, length, sequence } = header;
    if (length > 0) this.#checkRange(offset, length);
    if (header.type === peerFrame.read && header.flags === 0) {
      this.#read(offset, length, sequence);
      return;
    }
    if (header.type !== peerFrame.control) {
      throw new StorError('PROTOCOL', `a reader sent a frame of type ${header.type}`);
    }
    const control = parsePeerBody(peerControl, bytes, body, body + header.bodyBytes);
    this.#control(sequence, control);
  }

  /** The other side has closed it, or is gone. */
  close(): void {
    this.#isOpen = false;
    this.#reader.close();
  }

  #checkRange(offset: number, length: number): void {
    const padded = Math.ceil(this.sizeBytes / blockBytes) * blockBytes;
    if (offset + length > padded) {
      throw new StorError('PROTOCOL', 'a range beyond the end of the snapshot');
    }
  }

  #read(offset: number, length: number, sequence: number): void {
    const blocks = length / blockBytes;
    const front = blocks * 4;
    const reply = Buffer.allocUnsafe(front + length);
    this.#owner.backlogChanged(length);
    this.#reader.read(offset, length, reply, front, (error) => {
      this.#owner.backlogChanged(-length);
      if (error) {
        this.#failed(sequence, error);
        return;
      }
      for (let block = 0; block < blocks; block++) {
        const at = front + block * blockBytes;
        reply.writeUInt32BE(crc32(reply.subarray(at, at + blockBytes)), block * 4);
      }
      this.#send(peerFrame.readReply, sequence, offset, length, reply);
    });
  }

  #control(sequence: number, control: PeerControl): void {
    if (control.op === 'extents') {
      const { offset, length, limit } = control;
      if (length === 0) throw new StorError('PROTOCOL', 'extents of nothing');
      this.#checkRange(offset, length);
      this.#reader.extents(offset, length, limit, (error, found) => {
        const extents = found.flatMap((each) => [each.offset, each.length, each.allocated ? 1 : 0]);
        if (error) this.#failed(sequence, error);
        else this.#reply(sequence, { extents });
      });
      return;
    }
    if (control.op !== 'changed-chunks' || control.from === null) {
      throw new StorError('PROTOCOL', `a reader asked for ${control.op}`);
    }
    const wholeBytes = this.sizeBytes;
    this.#reader.changedSince(control.from, 0, wholeBytes, Infinity, (error, extents) => {
      if (hasCode(error, 'NOT_FOUND')) this.#reply(sequence, { chunks: null });
      else if (error) this.#failed(sequence, error);
      else {
        const chunks = textOf(dirtyBitmap(extents, wholeBytes), this.#runs);
        this.#reply(sequence, { chunks });
      }
    });
  }

  #reply(sequence: number, reply: PeerControlReply): void {
    const body = Buffer.from(JSON.stringify(reply));
    this.#send(peerFrame.controlReply, sequence, 0, 0, body);
  }

  #failed(sequence: number, error: StorError): void {
    const body = Buffer.from(JSON.stringify(peerFailureOf(error)));
    this.#send(peerFrame.requestFailed, sequence, 0, 0, body);
  }

  #send(
    type: PeerFrameType,
    sequence: number,
    offset: number,
    length: number,
    body: Uint8Array,
  ): void {
    if (!this.#isOpen) return;
    const { segment, number } = this;
    this.#owner.output.send(type, 0, segment, number, sequence, offset, length, body);
  }
}
