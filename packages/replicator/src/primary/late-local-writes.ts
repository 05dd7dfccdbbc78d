import { blockBytes } from '@stor/protocol';
import type { Clock } from '@stor/runtime';

import type { GateSession } from '../replication/replica-gate.ts';
import type { IoOp } from './io-op.ts';
import type { LocalMember } from './local-member.ts';

/**
 * Writes of one turn of the event loop that this node's replica gets at its end, after they have left for
 * the others: so all replicas write at the same time. Each has been given a sequence and is not
 * acknowledged before, and any other call of the local replica finds them done.
 */
export class LateLocalWrites {
  readonly #clock: Clock;
  readonly #write: (op: IoOp, sums: Uint32Array) => void;
  readonly #done: () => void;
  #ops: IoOp[] = [];
  /** an op that is over is used again for another request, with a sequence of its own */
  #sequences: number[] = [];
  /** lists that are empty, to be used in turn */
  #spareOps: IoOp[] = [];
  #spareSequences: number[] = [];
  #local: LocalMember | null = null;
  /** what they were issued under: its fence ends them (I2) */
  #session: GateSession | null = null;
  #sums = new Uint32Array(64);
  #isPlanned = false;

  /** `write` is called for each, then `done` once. */
  constructor(clock: Clock, write: (op: IoOp, sums: Uint32Array) => void, done: () => void) {
    this.#clock = clock;
    this.#write = write;
    this.#done = done;
  }

  /** Sequence of the first that waits; Infinity: none does. */
  get first(): number {
    return this.#sequences[0] ?? Infinity;
  }

  /** False: this op is to be written now. It must have its frame. */
  add(op: IoOp, local: LocalMember): boolean {
    const { session } = local;
    if (!session?.alive || !op.frame || op.frame.payload || op.kind !== 'write') return false;
    if (this.#session !== session) this.drain();
    this.#session = session;
    this.#local = local;
    op.localPending = true;
    this.#ops.push(op);
    this.#sequences.push(op.sequence);
    local.beforeCall = this.drain;
    if (!this.#isPlanned) {
      this.#isPlanned = true;
      // the outbox was given the first of them before, so it sends first
      this.#clock.endOfTurn(this.#endTurn);
    }
    return true;
  }

  readonly #endTurn = (): void => {
    this.#isPlanned = false;
    this.drain();
  };

  readonly drain = (): void => {
    const ops = this.#ops;
    if (ops.length === 0) return;
    const sequences = this.#sequences;
    const session = this.#session;
    this.#ops = this.#spareOps;
    this.#sequences = this.#spareSequences;
    let i = 0;
    for (const op of ops) {
      const isSame = op.sequence === sequences[i++] && op.localPending;
      if (isSame && session?.alive === true) this.#write(op, this.#sumsOf(op));
      else if (isSame) this.#local?.release(op.localChunks);
    }
    ops.length = sequences.length = 0;
    this.#spareOps = ops;
    this.#spareSequences = sequences;
    this.#done();
  };

  /** Points the op at its bytes in the frame: those of the client may be gone. */
  #sumsOf(op: IoOp): Uint32Array {
    const { frame } = op;
    if (!frame) throw new Error('a late write without its frame');
    const { bytes } = frame.batch;
    const start = frame.end - op.length;
    if (!op.ownsBytes) {
      op.bytes = bytes;
      op.start = start;
    }
    const blocks = op.length / blockBytes;
    if (this.#sums.length < blocks) this.#sums = new Uint32Array(blocks);
    for (let block = 0; block < blocks; block++) {
      this.#sums[block] = bytes.readUInt32BE(start - (blocks - block) * 4);
    }
    return this.#sums;
  }
}
