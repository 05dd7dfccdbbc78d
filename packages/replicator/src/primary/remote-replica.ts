import type {
  PeerControl,
  PeerControlReply,
  SnapshotId,
  StorError,
  peerFrame,
} from '@stor/protocol';

import type { Bitmap } from '../core/replication/bitmap.ts';
import { MemberSpace } from '../core/replication/member-space.ts';
import type { ChunkSums } from '../core/replication/settle-choice.ts';
import { SnapshotList } from '../core/replication/snapshot-list.ts';
import type { SpaceCredits } from '../core/replication/space-credits.ts';
import { chunksOfPeer } from '../peer/peer-snapshots.ts';
import type { ReplicaSnapshot } from '../replica-snapshots.ts';
import type { StoreDone } from '../replica-store.ts';
import type { MemberImage } from './member.ts';
import type { PeerReply } from './peer-requests.ts';
import { RemoteImage, type ImageChannel } from './remote-image.ts';

/** What a replica on another lane holds: its live image, its snapshots, its room. */
export abstract class RemoteReplica implements MemberImage {
  space: MemberSpace | null = null;
  /** of the replica as it is; 0 until opened */
  sizeBytes = 0;
  abstract readonly credits: SpaceCredits;
  readonly #epoch: number;
  readonly #channel: ImageChannel = {
    request: (type, flags, offset, length, body, reply) => {
      this.request(type, flags, offset, length, body, reply);
    },
    copy: (view, sequence, offset, length, bytes, sums, done) => {
      this.copyTo(view, sequence, offset, length, bytes, sums, done);
    },
  };
  readonly #live = new RemoteImage(this.#channel, null);
  #list = new SnapshotList();

  constructor(epoch: number) {
    this.#epoch = epoch;
  }

  get allocated(): Bitmap | null {
    return this.space?.allocated ?? null;
  }
  get snapshots(): readonly ReplicaSnapshot[] {
    return this.#list.all;
  }
  get headParent(): SnapshotId | null {
    return this.#list.headParent;
  }

  // images

  view(snapshotId: SnapshotId): MemberImage {
    return new RemoteImage(this.#channel, snapshotId);
  }

  read(offset: number, length: number, target: Uint8Array, start: number, done: StoreDone): void {
    this.#live.read(offset, length, target, start, done);
  }
  readUnverified(
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
    valid: Uint8Array,
    done: StoreDone,
  ): void {
    this.#live.readUnverified(offset, length, target, start, valid, done);
  }
  sums(
    offset: number,
    length: number,
    done: (error: StorError | null, sums: ChunkSums | null) => void,
  ): void {
    this.#live.sums(offset, length, done);
  }
  copy(
    sequence: number,
    offset: number,
    length: number,
    bytes: Uint8Array,
    sums: Uint32Array,
    done: StoreDone,
  ): void {
    this.#live.copy(sequence, offset, length, bytes, sums, done);
  }
  copyZero(sequence: number, offset: number, length: number, done: StoreDone): void {
    this.#live.copyZero(sequence, offset, length, done);
  }

  // snapshots

  takeSnapshot(snapshotId: SnapshotId, kind: 'prepared' | 'incomplete', done: StoreDone): void {
    const { sizeBytes } = this;
    this.space?.frozen();
    this.ask({ op: 'take-snapshot', snapshotId, kind }, (error) => {
      const epoch = this.#epoch;
      if (!error) this.#list.taken({ snapshotId, state: kind, epoch, sizeBytes });
      done(error);
    });
  }

  confirmSnapshot(snapshotId: SnapshotId, done: StoreDone, sizeBytes?: number): void {
    this.ask({ op: 'confirm-snapshot', snapshotId, sizeBytes }, (error) => {
      if (!error) this.#list.confirmed(snapshotId, sizeBytes);
      done(error);
    });
  }

  dropSnapshot(snapshotId: SnapshotId, done: StoreDone): void {
    this.ask({ op: 'drop-snapshot', snapshotId }, (error) => {
      if (!error) this.#list.dropped(snapshotId);
      done(error);
    });
  }

  rollback(snapshotId: SnapshotId, done: StoreDone): void {
    this.ask({ op: 'rollback', snapshotId }, (error, reply) => {
      if (!error && reply?.allocated !== undefined && reply.owned !== undefined) {
        this.#list.rolledBack(snapshotId);
        this.space?.replaced(this.#chunks(reply.allocated), this.#chunks(reply.owned));
        if (reply.freeChunks !== undefined) this.credits.granted(0, reply.freeChunks);
      }
      done(error);
    });
  }

  resize(sizeBytes: number, done: StoreDone): void {
    this.ask({ op: 'resize', sizeBytes }, (error) => {
      if (!error) this.#grown(sizeBytes);
      done(error);
    });
  }

  changedChunks(
    from: SnapshotId | null,
    to: SnapshotId | null,
    done: (error: StorError | null, chunks: Bitmap | null) => void,
  ): void {
    this.ask({ op: 'changed-chunks', from, to }, (error, reply) => {
      done(error, reply?.chunks ? this.#chunks(reply.chunks) : null);
    });
  }

  listSnapshots(done: StoreDone): void {
    this.ask({ op: 'snapshots' }, (error, reply) => {
      if (reply?.snapshots) {
        this.#list = new SnapshotList(reply.snapshots, reply.headParent ?? null);
        this.#grown(reply.sizeBytes ?? 0);
      }
      done(error);
    });
  }

  requestRoom(chunks: number, done: (granted: boolean) => void): void {
    this.ask({ op: 'room', chunks }, (_error, reply) => {
      if (reply?.freeChunks !== undefined) {
        this.credits.granted(reply.sequence ?? 0, reply.freeChunks);
        this.credits.isOut = this.credits.available < chunks;
      }
      done(this.credits.available >= chunks);
    });
  }

  refreshSpace(): void {
    const version = this.space?.version ?? 0;
    this.ask({ op: 'space' }, (_error, reply) => {
      if (reply?.owned !== undefined) this.space?.learned(version, this.#chunks(reply.owned));
    });
  }

  /** Takes over what the replica said when it was opened. */
  protected takeSpace(opened: {
    sizeBytes: number;
    snapshots: ReplicaSnapshot[];
    headParent: SnapshotId | null;
    allocated: string;
    owned: string;
  }): void {
    this.sizeBytes = opened.sizeBytes;
    this.#list = new SnapshotList(opened.snapshots, opened.headParent);
    this.space = new MemberSpace(this.#chunks(opened.allocated), this.#chunks(opened.owned));
  }

  protected abstract ask(
    control: PeerControl,
    done: (error: StorError | null, reply: PeerControlReply | null) => void,
  ): void;
  protected abstract request(
    type: typeof peerFrame.read | typeof peerFrame.sums,
    flags: number,
    offset: number,
    length: number,
    body: Uint8Array | null,
    reply: PeerReply,
  ): void;
  /** A write of this member alone; `bytes` null: zeros. */
  protected abstract copyTo(
    view: Uint8Array | null,
    sequence: number,
    offset: number,
    length: number,
    bytes: Uint8Array | null,
    sums: Uint32Array | null,
    done: StoreDone,
  ): void;

  #grown(sizeBytes: number): void {
    this.sizeBytes = Math.max(this.sizeBytes, sizeBytes);
    this.space?.grown(this.sizeBytes);
  }

  #chunks(text: string): Bitmap {
    return chunksOfPeer(text, this.sizeBytes);
  }
}
