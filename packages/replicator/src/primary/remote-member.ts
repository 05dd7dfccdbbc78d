import {
  StorError,
  errorOfPeer,
  hasCode,
  parsePeerBody,
  peerControlReply,
  peerClosed,
  peerFlagDrained,
  peerFlagView,
  peerFrame,
  peerOpened,
  peerWriteBodyBytes,
  regionBytes,
  replicaLeaseMs,
  type BackgroundClass,
  type PeerControl,
  type PeerControlReply,
  type PeerHeader,
  type PeerOpened,
} from '@stor/protocol';
import type { Clock } from '@stor/runtime';

import type { Bitmap } from '../core/replication/bitmap.ts';
import { leaseSpanMs } from '../core/replication/lease-promises.ts';
import { SpaceCredits } from '../core/replication/space-credits.ts';
import type { FrameRef, Outbox } from '../peer/outbox.ts';
import type { ChannelListener, PeerConnection } from '../peer/peer-connection.ts';
import type { PeerDirectory } from '../peer/peer-directory.ts';
import { historyOfPeer, peerHistoryOf } from '../peer/peer-history.ts';
import { bitmapOfText } from '../peer/peer-snapshots.ts';
import { openTimeoutMs, reconnectMaxMs, reconnectMinMs } from '../replication/limits.ts';
import {
  noGeneration,
  type Generation,
  type GenerationHistory,
  type SetView,
  type StoreDone,
} from '../replica-store.ts';
import type { Member, MemberEvents, OpenAnswer } from './member.ts';
import { PeerRequests, type PeerReply } from './peer-requests.ts';
import { RemoteReplica } from './remote-replica.ts';
import { misfit } from './remote-replies.ts';

export interface RemoteMemberOptions {
  replica: { id: string; nodeId: string; diskId: string; host: string; port: number };
  volumeId: string;
  segment: number;
  sizeBytes: number;
  epoch: number;
  channel: number;
  /** which connection to its node: another member of the segment there has the same channel number */
  link: number;
  /** Members that follow one another on a channel must not take each other's answers for theirs. */
  firstRequest: number;
  clock: Clock;
  outbox: Outbox;
  directory: PeerDirectory;
  events: MemberEvents;
}

/** A replica on another lane: one channel of a shared connection, opened again when it breaks. */
export class RemoteMember extends RemoteReplica implements Member, ChannelListener {
  readonly replicaId: string;
  readonly nodeId: string;
  readonly diskId: string;
  readonly isLocal = false;
  instance = '';
  readonly link: number;
  readonly credits = new SpaceCredits();
  answer: OpenAnswer | null = null;
  ackedSequence = 0;
  generation: Generation = noGeneration;
  markedCount = 0;
  readonly #options: RemoteMemberOptions;
  #host: string;
  #port: number;
  #connection: PeerConnection | null = null;
  #phase: 'closed' | 'opening' | 'open' | 'stopped' = 'closed';
  #lease = 0;
  #openSentMs = 0;
  readonly #requests = new PeerRequests();
  #nextRequest: number;
  #openId = 0;
  #sentBytes = 0;
  #appliedBytes = 0;
  #backoffMs = reconnectMinMs;
  /** the other end knows of turns: see `askTurn` */
  #hasTurns = false;
  #cancelTimer: (() => void) | null = null;

  constructor(options: RemoteMemberOptions) {
    super(options.epoch);
    this.#options = options;
    this.#nextRequest = options.firstRequest;
    const { replica } = options;
    this.replicaId = replica.id;
    this.nodeId = replica.nodeId;
    this.diskId = replica.diskId;
    this.link = options.link;
    this.#host = replica.host;
    this.#port = replica.port;
  }

  get isOpen(): boolean {
    return this.#phase === 'open';
  }
  get leaseUntilMs(): number {
    return Math.max(
      this.#lease,
      this.#phase === 'open' ? (this.#connection?.leaseUntilMs ?? 0) : 0,
    );
  }
  get availableChunks(): number {
    return this.credits.available;
  }
  get isFull(): boolean {
    return this.credits.isOut;
  }
  get unackedBytes(): number {
    return this.#sentBytes - this.#appliedBytes;
  }

  start(): void {
    if (this.#phase !== 'closed') return;
    this.#cancelTimer?.();
    this.#cancelTimer = null;
    this.#phase = 'opening';
    const { directory } = this.#options;
    directory.get(this.nodeId, this.#host, this.#port, this.link).then(
      (connection) => {
        this.#openOn(connection);
      },
      (error: unknown) => {
        if (this.#phase === 'opening') this.#lost(StorError.from(error));
      },
    );
  }

  stop(drained: boolean): void {
    if (this.#phase === 'stopped') return;
    this.#detach(true, drained && this.#phase === 'open');
    this.#phase = 'stopped';
    this.#cancelTimer?.();
    this.#cancelTimer = null;
    this.#requests.fail(new StorError('ABORTED', 'the primary has stopped'));
  }

  drop(error: StorError): void {
    if (this.#phase === 'open' || this.#phase === 'opening') {
      this.#detach(true);
      this.#lost(error);
    }
  }

  /** The node listens elsewhere now. */
  moved(host: string, port: number): void {
    if (host === this.#host && port === this.#port) return;
    this.#host = host;
    this.#port = port;
    this.#backoffMs = reconnectMinMs;
    if (this.#phase === 'closed') this.start();
  }

  tick(nowMs: number): void {
    const { ages } = this.#requests;
    ages.tick(nowMs);
    if (this.#phase !== 'open') return;
    const slowMs = ages.oldestMs;
    if (!this.#options.events.isTooSlow(this, slowMs)) return;
    const seconds = Math.round(slowMs / 1_000);
    this.drop(new StorError('TIMEOUT', `${this.nodeId} has owed an answer for ${seconds} s`));
  }

  /** Sends an encoded write or zero; the caller keeps the frame for a member that returns. */
  send(frame: FrameRef, sequence: number, bodyBytes: number): void {
    this.#connection?.output.queueFrame(frame);
    this.#requests.ages.sent(sequence);
    this.#sentBytes += bodyBytes;
  }

  flush(done: StoreDone): void {
    const id = this.#nextRequest++;
    if (!this.#sendRequest(peerFrame.flush, 0, id, 0, 0, null)) {
      done(this.#unavailable());
      return;
    }
    this.#requests.flushing(id, done);
  }

  recordSetView(view: SetView, done: StoreDone): void {
    this.#control({ op: 'set-view', view }, done);
  }
  checkpoint(done: StoreDone): void {
    this.#control({ op: 'checkpoint' }, done);
  }
  retire(generation: Generation, done: StoreDone): void {
    this.#control({ op: 'retire', generation }, done);
  }
  adopt(generation: Generation, history: GenerationHistory | null, done: StoreDone): void {
    this.#control({ op: 'adopt', generation, history: history && peerHistoryOf(history) }, done);
  }

  history(done: (error: StorError | null, history: GenerationHistory | null) => void): void {
    this.ask({ op: 'history' }, (error, reply) => {
      done(error, reply?.history ? historyOfPeer(reply.history) : null);
    });
  }

  changedSince(
    generation: Generation,
    done: (error: StorError | null, regions: number[] | null) => void,
  ): void {
    this.ask({ op: 'changed-since', generation }, (error, reply) => {
      done(error, reply?.regions ? this.#regions(reply.regions).list() : null);
    });
  }

  askTurn(ofClass: BackgroundClass, bytes: number, done: () => void): void {
    if (!this.#hasTurns) done();
    else {
      const body = Buffer.from(JSON.stringify({ op: 'turn', class: ofClass, bytes }));
      // how long it takes says nothing of the member
      this.#request(peerFrame.control, 0, 0, 0, body, done, false);
    }
  }

  // what the channel hears

  acknowledged(sequence: number, appliedBytes: number, freeChunks: number): void {
    if (!this.isOpen) return;
    this.#appliedBytes = appliedBytes;
    this.credits.granted(sequence, freeChunks);
    if (sequence <= this.ackedSequence) return;
    this.ackedSequence = sequence;
    this.#requests.acknowledged(sequence);
    this.#options.events.progressed(this);
  }

  flushed(id: number): void {
    this.#requests.flushed(id);
  }

  answered(header: PeerHeader, bytes: Buffer, start: number): void {
    if (header.type === peerFrame.opened) {
      this.#opened(parsePeerBody(peerOpened, bytes, start, start + header.bodyBytes), header);
      return;
    }
    const reply = this.#requests.answered(header.sequence);
    if (!reply) return;
    if (header.type === peerFrame.requestFailed) {
      const failed = parsePeerBody(peerClosed, bytes, start, start + header.bodyBytes);
      reply(errorOfPeer(failed), null, null, 0);
    } else reply(null, header, bytes, start);
  }

  pong(sequence: number, freeChunks: number, markedCount: number): void {
    if (!this.isOpen) return;
    this.credits.granted(sequence, freeChunks);
    this.markedCount = markedCount;
  }

  renewed(): void {
    if (this.isOpen) this.#options.events.progressed(this);
  }

  closed(error: StorError): void {
    // said of a channel before this one: ours does not exist at the other end before `opened`, which
    // answers the fence; a newer epoch or a failure is in that answer too
    if (this.#phase !== 'open') return;
    if (hasCode(error, 'STALE_EPOCH')) this.#options.events.superseded(error);
    this.#lost(error);
  }

  lost(error: StorError): void {
    this.#lost(error);
  }

  #openOn(connection: PeerConnection): void {
    if (this.#phase !== 'opening') return;
    if (connection.over) {
      this.#lost(connection.over);
      return;
    }
    const { channel, segment, volumeId, epoch, sizeBytes, clock } = this.#options;
    this.#connection = connection;
    connection.attachChannel(channel, this);
    this.#openSentMs = clock.monotonicMs();
    const open = { volumeId, segment, replicaId: this.replicaId, epoch, sizeBytes, runs: true };
    const body = Buffer.from(JSON.stringify(open));
    this.#openId = this.#nextRequest++;
    connection.output.send(peerFrame.open, 0, segment, channel, this.#openId, 0, 0, body);
    this.#cancelTimer = clock.after(openTimeoutMs, () => {
      this.drop(new StorError('TIMEOUT', `${this.nodeId} did not answer the fence`));
    });
  }

  #opened(opened: PeerOpened, header: PeerHeader): void {
    if (this.#phase !== 'opening' || header.sequence !== this.#openId) return;
    this.#cancelTimer?.();
    this.#cancelTimer = null;
    if ('error' in opened) {
      const error = errorOfPeer(opened.error);
      this.#detach(false);
      if (hasCode(error, 'STALE_EPOCH')) this.#options.events.superseded(error);
      this.#lost(error);
      return;
    }
    const { events } = this.#options;
    this.#phase = 'open';
    this.instance = this.#connection?.agentInstance ?? '';
    this.takeSpace(opened);
    // a failed replica is asked again ever more rarely
    if (!opened.failure) this.#backoffMs = reconnectMinMs;
    this.#lease = this.#openSentMs + replicaLeaseMs;
    this.#sentBytes = 0;
    this.#appliedBytes = 0;
    this.generation = opened.generation;
    this.credits.reset(opened.freeChunks);
    this.answer = {
      keptMemory: opened.keptMemory,
      failure: opened.failure && errorOfPeer(opened.failure),
      highestEpoch: opened.highestEpoch,
      setView: opened.setView,
      generation: opened.generation,
      marks: this.#regions(opened.marks),
      // the earliest word stands: the replica was fenced then, and has promised nothing older since
      leasesOverMs: Math.min(
        this.answer?.leasesOverMs ?? Infinity,
        this.#options.clock.monotonicMs() + (opened.leaseRemainingMs ?? leaseSpanMs),
      ),
      drainedEpoch: opened.drainedEpoch ?? null,
    };
    this.markedCount = this.answer.marks.count;
    this.#hasTurns = opened.turns === true;
    const { failure } = this.answer;
    events.opened(this, this.answer);
    // a full disk: asked again, for it takes calls as soon as there is room
    if (failure && hasCode(failure, 'NO_SPACE')) this.drop(failure);
  }

  #regions(text: string): Bitmap {
    const size = Math.ceil(this.sizeBytes / regionBytes);
    return bitmapOfText(text, size);
  }

  #control(control: PeerControl, done: StoreDone): void {
    this.ask(control, (error) => {
      done(error);
    });
  }

  protected ask(
    control: PeerControl,
    done: (error: StorError | null, reply: PeerControlReply | null) => void,
  ): void {
    const body = Buffer.from(JSON.stringify(control));
    this.request(peerFrame.control, 0, 0, 0, body, (error, header, bytes, at) => {
      if (error || !header || !bytes) done(error ?? misfit(), null);
      else done(null, parsePeerBody(peerControlReply, bytes, at, at + header.bodyBytes));
    });
  }

  /** A write of this member alone; `bytes` null: zeros. */
  protected copyTo(
    view: Uint8Array | null,
    sequence: number,
    offset: number,
    length: number,
    bytes: Uint8Array | null,
    sums: Uint32Array | null,
    done: StoreDone,
  ): void {
    if (!this.#connection || !this.isOpen) {
      done(this.#unavailable());
      return;
    }
    const { outbox, segment, channel } = this.#options;
    this.#requests.copying(sequence, done);
    if (bytes && sums) {
      const frame = outbox.encodeWrite(
        segment,
        channel,
        sequence,
        offset,
        length,
        bytes,
        0,
        sums,
        view,
      );
      this.send(frame, sequence, (view?.length ?? 0) + peerWriteBodyBytes(length));
      return;
    }
    const flags = view ? peerFlagView : 0;
    const type = peerFrame.zero;
    const frame = outbox.encode(type, flags, segment, channel, sequence, offset, length, view);
    this.send(frame, sequence, view?.length ?? 0);
  }

  protected request(
    type: typeof peerFrame.read | typeof peerFrame.sums | typeof peerFrame.control,
    flags: number,
    offset: number,
    length: number,
    body: Uint8Array | null,
    reply: PeerReply,
  ): void {
    this.#request(type, flags, offset, length, body, reply, true);
  }

  /** `isOwed`: one that does not answer for long is given up. */
  #request(
    type: typeof peerFrame.read | typeof peerFrame.sums | typeof peerFrame.control,
    flags: number,
    offset: number,
    length: number,
    body: Uint8Array | null,
    reply: PeerReply,
    isOwed: boolean,
  ): void {
    const id = this.#nextRequest++;
    if (!this.#sendRequest(type, flags, id, offset, length, body)) {
      reply(this.#unavailable(), null, null, 0);
      return;
    }
    if (isOwed) this.#requests.asked(id, type === peerFrame.control, reply);
    else this.#requests.waiting(id, reply);
  }

  #sendRequest(
    type: typeof peerFrame.read | typeof peerFrame.sums | typeof peerFrame.control | 9,
    flags: number,
    id: number,
    offset: number,
    length: number,
    body: Uint8Array | null,
  ): boolean {
    if (!this.#connection || !this.isOpen) return false;
    const { segment, channel } = this.#options;
    this.#connection.output.send(type, flags, segment, channel, id, offset, length, body);
    return true;
  }

  #detach(tell: boolean, drained = false): void {
    const connection = this.#connection;
    this.#connection = null;
    if (!connection) return;
    // a lease that was given holds although the connection does not
    this.#lease = Math.max(this.#lease, connection.leaseUntilMs);
    const { segment, channel } = this.#options;
    connection.detachChannel(channel, this);
    if (tell && !connection.over) {
      const flags = drained ? peerFlagDrained : 0;
      connection.output.send(peerFrame.close, flags, segment, channel, 0, 0, 0, null);
    }
  }

  #lost(error: StorError): void {
    if (this.#phase === 'stopped' || this.#phase === 'closed') return;
    const wasOpen = this.#phase === 'open';
    if (wasOpen) this.#lease = Math.max(this.#lease, this.#connection?.leaseUntilMs ?? 0);
    this.#phase = 'closed';
    if (this.answer && error.code === 'DISK_FAILED') this.answer.failure = error;
    this.#detach(false);
    this.#cancelTimer?.();
    this.#cancelTimer = this.#options.clock.after(this.#backoffMs, () => {
      this.#cancelTimer = null;
      this.start();
    });
    this.#backoffMs = Math.min(this.#backoffMs * 2, reconnectMaxMs);
    this.#requests.fail(error);
    this.#options.events.lost(this, error);
  }

  #unavailable(): StorError {
    return new StorError('UNAVAILABLE', `${this.nodeId} is not connected`);
  }
}

/** The lowest link to that node which none of these members of one segment uses. */
export function freeLink(members: readonly RemoteMember[], nodeId: string): number {
  const used = members.flatMap((each) => (each.nodeId === nodeId ? [each.link] : []));
  let link = 0;
  while (used.includes(link)) link += 1;
  return link;
}
