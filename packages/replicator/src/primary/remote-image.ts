import {
  encodePeerView,
  peerFlagUnverified,
  peerFlagView,
  peerFrame,
  type SnapshotId,
  type StorError,
} from '@stor/protocol';

import type { ChunkSums } from '../core/replication/settle-choice.ts';
import type { StoreDone } from '../replica-store.ts';
import type { MemberImage } from './member.ts';
import type { PeerReply } from './peer-requests.ts';
import { misfit, takeSums, takeUnverified, takeVerified } from './remote-replies.ts';

/** How an image sends what it is asked. */
export interface ImageChannel {
  request(
    type: typeof peerFrame.read | typeof peerFrame.sums,
    flags: number,
    offset: number,
    length: number,
    body: Uint8Array | null,
    reply: PeerReply,
  ): void;
  /** `bytes` null: zeros */
  copy(
    view: Uint8Array | null,
    sequence: number,
    offset: number,
    length: number,
    bytes: Uint8Array | null,
    sums: Uint32Array | null,
    done: StoreDone,
  ): void;
}

/** The live image of a replica on another lane, or one of its snapshots. */
export class RemoteImage implements MemberImage {
  readonly #channel: ImageChannel;
  readonly #view: Uint8Array | null;
  readonly #flags: number;

  constructor(channel: ImageChannel, snapshotId: SnapshotId | null) {
    this.#channel = channel;
    this.#view = snapshotId === null ? null : encodePeerView(snapshotId);
    this.#flags = this.#view ? peerFlagView : 0;
  }

  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void {
    const type = peerFrame.read;
    this.#request(type, 0, offset, length, (error, header, bytes, body) => {
      if (error || !bytes || header?.length !== length) done(error ?? misfit());
      else done(takeVerified(bytes, body, length, target, start));
    });
  }

  readUnverified(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    valid: Uint8Array,
    done: StoreDone,
  ): void {
    const flags = peerFlagUnverified;
    this.#request(peerFrame.read, flags, offset, length, (error, header, bytes, body) => {
      const fits = header?.length === length && header.flags === flags;
      if (!error && bytes && fits) takeUnverified(bytes, body, length, target, start, valid);
      done(error ?? (fits ? null : misfit()));
    });
  }

  sums(
    offset: number,
    length: number,
    done: (error: StorError | null, sums: ChunkSums | null) => void,
  ): void {
    this.#request(peerFrame.sums, 0, offset, length, (error, header, bytes, body) => {
      if (error || !bytes || header?.length !== length) done(error ?? misfit(), null);
      else done(null, takeSums(bytes, body, length));
    });
  }

  copy(
    sequence: number,
    offset: number,
    length: number,
    bytes: Uint8Array,
    sums: Uint32Array,
    done: StoreDone,
  ): void {
    this.#channel.copy(this.#view, sequence, offset, length, bytes, sums, done);
  }

  copyZero(sequence: number, offset: number, length: number, done: StoreDone): void {
    this.#channel.copy(this.#view, sequence, offset, length, null, null, done);
  }

  #request(
    type: typeof peerFrame.read | typeof peerFrame.sums,
    flags: number,
    offset: number,
    length: number,
    reply: PeerReply,
  ): void {
    this.#channel.request(type, flags | this.#flags, offset, length, this.#view, reply);
  }
}
