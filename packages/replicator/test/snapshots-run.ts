/**
 * One run of random calls, crashes and power cuts on one disk with a replica, its snapshots and
 * its clones, against the model of snapshots-model.ts.
 */
import { blockBytes, chunkBytes, regionBytes } from '@stor/protocol';
import { crc32, type Files, silentLogger } from '@stor/runtime';
import { FakeClock, FaultyFiles } from '@stor/runtime/testing';
import type { DiskStore, Generation, ReplicaStore, SetView, StoreDone } from '../src/index.ts';
import { compareGenerations, noGeneration, openDiskStore } from '../src/index.ts';
import type { ReplicaSnapshot, ReplicaView } from '../src/replica-snapshots.ts';
import type { Fault, SnapshotCommand } from './snapshots-commands.ts';
import { allowedOf, anything, type Entry, fill, Image, valueOf } from './snapshots-model.ts';

const blocksInChunk = chunkBytes / blockBytes;
const blocksInRegion = regionBytes / blockBytes;
export const firstBlocks = 2 * blocksInRegion;
/** Enough for every kind of tree, few enough that a run stays quick. */
const mostSnapshots = 7;
const mostReplicas = 4;
const mostBlocks = 4 * blocksInRegion;
const expect = { clusterId: 'c-0000000000000001', nodeId: 'n-0000000000000001' };
/** Turns of the event loop after which background work must have ended. */
const mostTurns = 20_000;

export class Failed extends Error {}
export type Breakage = (files: Files) => Files;

interface Snapshot {
  id: string;
  image: Image;
  kind: 'prepared' | 'incomplete';
  /** calls issued before it was taken */
  seq: number;
  /** what the store was asked to do and has not answered */
  taking: boolean;
  dropping: boolean;
  ready: boolean;
  confirming: boolean;
  /** calls that write into it, not answered */
  readonly filling: Set<number>;
}

class Replica {
  readonly id: string;
  live: Image;
  /** ascending by when they were taken */
  snapshots: Snapshot[] = [];
  headParent: Snapshot | null = null;
  store: ReplicaStore | null = null;
  /** asked for and not answered: it may not be there after a crash */
  creating = false;
  deleting = false;
  resizingTo: number | null = null;
  /** asked for and not answered */
  rollingTo: Snapshot | null = null;
  /** regions that must be marked, by the call that asked for it */
  readonly mustMark = new Map<number, number>();
  /** by region, the last call that changed it; calls under way at a cut may count for either side */
  readonly changedBy: number[] = Array.from({ length: mostBlocks / blocksInRegion }, () => 0);
  epochAcked = 0;
  viewAcked: SetView | null = null;
  generationAcked: Generation = noGeneration;
  lastCut: { seq: number } | null = null;
  retireSeq = -1;
  cuts: { generation: Generation; seq: number }[] = [];
  suspect = false;
  /** blocks that a crash left without a matching checksum */
  readonly unsure = new Set<number>();

  constructor(id: string, live: Image) {
    this.id = id;
    this.live = live;
  }

  wrote(block: number, count: number, seq: number): void {
    const last = Math.floor((block + count - 1) / blocksInRegion);
    for (let region = Math.floor(block / blocksInRegion); region <= last; region++) {
      this.changedBy[region] = Math.max(this.changedBy[region] ?? 0, seq);
    }
  }

  /** What a flush that begins now will have made durable; writes into a snapshot count once answered. */
  beginFlush(seq: number): () => void {
    const images = this.snapshots.map(({ image, filling }) => {
      return [image, Math.min(seq, ...[...filling].map((one) => one - 1))] as const;
    });
    const { live } = this;
    return () => {
      live.flushed(seq);
      // one that was taken meanwhile has everything of before
      if (this.live !== live) this.live.flushed(seq);
      for (const { image } of this.snapshots) {
        const known = images.find(([one]) => one === image);
        image.flushed(known ? known[1] : seq);
      }
    };
  }
}

type After = 'clean' | 'kill' | 'power';

export class SnapshotsRun {
  readonly #world: FaultyFiles;
  readonly #clock = new FakeClock();
  readonly #breakage: Breakage;
  #store: DiskStore | null = null;
  #crashed: Promise<void> = Promise.resolve();
  #alive = { now: false };
  #pending: Promise<void>[] = [];
  readonly #errors: string[] = [];
  #boot: string;
  #maybeClean = true;
  #again: { after: number; power: boolean } | null = null;
  /** the disk has been full since the last opening */
  #full = false;
  /** a call found no room: what that left of it is asked of a process that opens the disk anew */
  #refused = false;
  /** an operation on a file has failed since the last opening: calls may, and the replica with them */
  #faulted = false;
  /** something failed for good: it must refuse everything, and holds what it has promised */
  #broken = false;
  #opening = false;
  /** something on the disk refuses for good: nothing more can be learnt */
  #isOver = false;
  /** blocks may have been lost where the disk could not read them: they never verify as others */
  #unreadable = false;
  /** a read met a block beside a write that failed: its replica must fail, or the block is bad */
  #tornRead = '';

  /** what is read to be looked at, one chunk at a time */
  readonly #target = new Uint8Array(chunkBytes);
  readonly #valid = new Uint8Array(blocksInChunk);

  readonly #replicas = new Map<string, Replica>();
  #seq = 0;
  #value = 0;
  #ids = 0;
  #epoch = 1;
  #revision = 0;
  #generationN = 0;
  /** calls and crashes that had an effect */
  steps = 0;
  crashes = 0;
  /** file operations that were made to fail */
  faults = 0;

  constructor(seed: number, breakage: Breakage = (files) => files) {
    this.#world = new FaultyFiles({ seed, punches: seed % 2 === 0 });
    this.#boot = this.#world.bootId;
    this.#breakage = breakage;
  }

  async run(commands: readonly SnapshotCommand[]): Promise<void> {
    await this.#open('none');
    for (const command of commands) {
      await this.#do(command);
      if (!this.#alive.now) await this.#recover();
      this.#check(this.#errors.length === 0, this.#errors[0] ?? '');
      if (this.#isOver) break;
    }
    if (!this.#isOver) await this.#end();
    await this.#store?.close();
    this.#check(this.#errors.length === 0, this.#errors[0] ?? '');
  }

  /** All is looked at; then, after one more kill, nothing of snapshots and clones may be left. */
  async #end(): Promise<void> {
    this.#world.cancelCrash();
    await this.#lookAtAll();
    if (!this.#alive.now) await this.#recover();
    this.#check(this.#errors.length === 0, this.#errors[0] ?? '');
    if (this.#isOver) return;
    this.#world.kill();
    this.#alive.now = false;
    await this.#recover();
    if (!this.#isOver) await this.#emptied();
  }

  #check(condition: boolean, message: string): asserts condition {
    if (!condition) throw new Failed(message);
  }

  // Opening and crashing

  async #open(after: After | 'none'): Promise<void> {
    const alive = { now: true };
    this.#alive = alive;
    this.#crashed = new Promise((resolve) => {
      this.#world.onCrash = () => {
        alive.now = false;
        resolve();
      };
    });
    const opened = openDiskStore({
      path: '/disk',
      expect,
      create: { diskId: 'd-0000000000000001' },
      files: this.#breakage(this.#world.process()),
      clock: this.#clock,
      logger: silentLogger,
      bootId: this.#world.bootId,
      failures: {
        record: ({ reason }) => {
          if (!alive.now) return;
          if (this.#faulted) this.#broken = true;
          else this.#errors.push(`a failure was recorded: ${reason}`);
        },
        failuresOf: () => [],
      },
      options: { journalBytes: 16 * 4096, reserveBytes: 0 },
    });
    this.#opening = true;
    const store = await this.#race(opened).catch((error: unknown) => {
      if (!this.#mayFail(error)) throw error;
      this.#broken = true;
      return null;
    });
    this.#opening = false;
    if (alive.now && this.#broken) this.#losePower();
    if (!store || !alive.now) return;
    this.#store = store;
    if (after === 'none') await this.#create('r-1', new Image(firstBlocks, null), null);
    else this.#take(store);
  }

  /** The replicas that the disk has now, against those that it may have. */
  #take(store: DiskStore): void {
    const found = new Set(store.replicas().map(({ replicaId }) => replicaId));
    for (const [id, replica] of this.#replicas) {
      if (found.delete(id)) {
        replica.store = store.replica(id);
        replica.creating = false;
        continue;
      }
      this.#check(replica.creating || replica.deleting, `replica ${id} is gone`);
      this.#replicas.delete(id);
    }
    this.#check(found.size === 0, `nobody knows replica ${[...found].join()}`);
  }

  /** Null when the process crashed first; errors after a crash mean nothing. */
  async #race<T>(promise: Promise<T>): Promise<T | null> {
    const alive = this.#alive;
    const result = await Promise.race([
      promise.catch((error: unknown) => {
        if (alive.now) throw error;
        return null;
      }),
      this.#crashed.then(() => null),
    ]);
    return alive.now ? result : null;
  }

  async #recover(): Promise<void> {
    this.crashes += 1;
    // what has failed for good is not opened again as if it had not: what it promised must be there
    if (this.#broken) this.#world.powerLoss();
    this.#room();
    for (;;) {
      this.#pending = [];
      if (this.#again) {
        this.#world.crashAfter(this.#again.after, this.#again.power ? 'power' : 'kill');
        this.#again = null;
      }
      await this.#open('kill');
      if (!this.#alive.now) continue;
      this.#world.cancelCrash();
      const after = this.#world.bootId === this.#boot ? 'kill' : 'power';
      this.#boot = this.#world.bootId;
      if (after === 'power') for (const one of this.#replicas.values()) one.suspect = true;
      this.#isOver = this.#refusesForGood();
      if (this.#isOver) return;
      await this.#verify(after, true);
      return;
    }
  }

  /**
   * Copies that closing could not sync: the disk says so itself, whoever has forgotten that a sync
   * failed, and what it refuses cannot be looked at.
   */
  #refusesForGood(): boolean {
    const failures = [...this.#replicas.values()].map(({ store }) => store?.failure ?? null);
    return this.faults > 0 && failures.some((one) => one?.message.includes('never synced'));
  }

  /** There is room on the disk again, and it works. */
  #room(): void {
    this.#world.capacityBytes = Infinity;
    this.#world.hook = () => null;
    this.#full = this.#refused = false;
    this.#faulted = this.#broken = false;
    this.#tornRead = '';
  }

  #losePower(): void {
    this.#world.powerLoss();
    this.#alive.now = false;
  }

  /** From now on some operations fail. */
  #arm(fault: Fault): void {
    let { skip, times } = fault;
    this.#world.hook = (operation, path) => {
      if (operation !== fault.operation || !path.includes(fault.file) || times === 0) return null;
      // tables that cannot be read when a disk is opened are damaged for good: store-faults.test.ts
      if (operation === 'read' && !/(data|sums)$/.test(path)) return null;
      const isTable = /(slots|layers|regions)$/.test(path);
      if (this.#opening && (operation === 'open' || isTable)) return null;
      if (skip > 0) {
        skip -= 1;
        return null;
      }
      times -= 1;
      this.faults += 1;
      this.#faulted = true;
      if (operation === 'read') this.#unreadable = true;
      return operation === 'read' ? 'EIO' : fault.code;
    };
  }

  /** Whether a call may fail so. It may have had its effect all the same: the next opening shows. */
  #mayFail(error: unknown): boolean {
    const { code } = error as { code?: string };
    if (code === 'NO_SPACE' && (this.#full || this.#faulted)) this.#refused = true;
    else if (code === 'DISK_FAILED' && this.#faulted) this.#broken = true;
    else return false;
    return true;
  }

  /** A replica that has failed for good answers nothing any more as if it had not. */
  async #refuses(): Promise<void> {
    this.#world.cancelCrash();
    for (const { id, store } of this.#replicas.values()) {
      if (store?.failure?.code !== 'DISK_FAILED') continue;
      const target = new Uint8Array(blockBytes);
      const sums = Uint32Array.of(crc32(target));
      const calls: Record<string, (done: StoreDone) => void> = {
        read: (done) => {
          if (store.readInline(0, blockBytes, target, 0)) done(null);
          else store.read(0, blockBytes, target, 0, done);
        },
        write: (done) => {
          store.write(0, blockBytes, target, 0, sums, 0, done);
        },
        flush: (done) => {
          store.flush(done);
        },
        take: (done) => {
          store.takeSnapshot('s-refused', this.#epoch, 'prepared', done);
        },
      };
      for (const [name, make] of Object.entries(calls)) {
        const answered = await this.#call(make).then(
          () => true,
          () => false,
        );
        this.#check(!answered, `${id} has failed and answers a ${name}`);
      }
    }
  }

  // Checking

  /** Everything that the disk promises, against what the model allows. */
  async #verify(after: After, opened: boolean): Promise<void> {
    this.#world.hook = () => null;
    for (const replica of this.#replicas.values()) {
      if (opened) this.#verifyFacts(replica, after);
      this.#verifyList(replica, opened);
      await this.#verifyReplica(replica, opened ? after : 'clean');
      if (opened) {
        // nobody was told, but it may have been done
        for (const [region, seq] of replica.mustMark) {
          if (seq <= replica.retireSeq) replica.mustMark.delete(region);
        }
        replica.retireSeq = -1;
        replica.lastCut = null;
      }
    }
    this.#maybeClean = false;
    for (const replica of this.#replicas.values()) {
      this.#verifyChanged(replica);
      if (replica.unsure.size > 0) await this.#repair(replica);
    }
  }

  #verifyFacts(replica: Replica, after: After): void {
    const { store } = replica;
    this.#check(store !== null, 'no replica');
    const where = `${replica.id} after ${after}: `;
    this.#check(store.failure === null, `${where}failed: ${store.failure?.message ?? ''}`);
    this.#check(store.highestEpoch >= replica.epochAcked, `${where}the fence went back`);
    const view = store.setView;
    const acked = replica.viewAcked;
    if (acked) {
      const back =
        view === null ||
        view.epoch < acked.epoch ||
        (view.epoch === acked.epoch && view.setRevision < acked.setRevision);
      this.#check(!back, `${where}the set view went back`);
    }
    const older = compareGenerations(store.generation, replica.generationAcked) < 0;
    this.#check(!older, `${where}the generation went back`);
    this.#check(store.keptMemory || replica.suspect, `${where}suspect without reason`);
    if (store.keptMemory && after !== 'power') replica.suspect = false;
    const lost = after === 'power' && !this.#maybeClean;
    this.#check(!(lost && store.keptMemory), `${where}memory kept?`);
    const blocks = store.sizeBytes / blockBytes;
    const sizes = [replica.live.sizeBlocks, replica.resizingTo];
    this.#check(sizes.includes(blocks), `${where}it has ${blocks} blocks, not ${sizes.join()}`);
    replica.live.sizeBlocks = blocks;
    replica.resizingTo = null;
    replica.deleting = false;
    for (const cut of replica.cuts) this.#verifyStamps(replica, cut, where);
  }

  #verifyStamps(replica: Replica, cut: Replica['cuts'][number], where: string): void {
    const changed = replica.store?.regionsChangedSince(cut.generation) ?? null;
    if (changed === null) return;
    for (const [region, seq] of replica.changedBy.entries()) {
      if (seq <= cut.seq) continue;
      const { epoch, n } = cut.generation;
      this.#check(
        changed.includes(region),
        `${where}region ${region} was written after checkpoint (${epoch}, ${n}) and is not said to`,
      );
    }
  }

  /** Which snapshots there are. */
  #verifyList(replica: Replica, opened: boolean): void {
    const listed = new Map(replica.store?.snapshots().map((one) => [one.snapshotId, one] as const));
    const order: string[] = [];
    for (const snapshot of [...replica.snapshots]) {
      const found = listed.get(snapshot.id);
      const where = `${replica.id}@${snapshot.id}`;
      if (!found) {
        const may = snapshot.dropping || (opened && snapshot.taking);
        this.#check(may, `${where} is gone`);
        if (opened) this.#forget(replica, snapshot);
        continue;
      }
      listed.delete(snapshot.id);
      order.push(snapshot.id);
      if (opened) this.#found(snapshot, found, where);
      const size = snapshot.image.sizeBlocks * blockBytes;
      this.#check(found.sizeBytes === size, `${where} has ${found.sizeBytes} bytes, not ${size}`);
    }
    this.#check(listed.size === 0, `${replica.id}: nobody knows ${[...listed.keys()].join()}`);
    const real = replica.store?.snapshots().map(({ snapshotId }) => snapshotId) ?? [];
    this.#check(real.join() === order.join(), `${replica.id}: ${real.join()} is out of order`);
  }

  #found(snapshot: Snapshot, found: ReplicaSnapshot, where: string): void {
    snapshot.taking = false;
    snapshot.dropping = false;
    snapshot.filling.clear();
    const states: string[] = snapshot.ready ? ['ready'] : [snapshot.kind];
    if (snapshot.confirming) states.push('ready');
    this.#check(states.includes(found.state), `${where} is ${found.state}, not ${states.join()}`);
    snapshot.ready = found.state === 'ready';
    snapshot.confirming = false;
  }

  #forget(replica: Replica, snapshot: Snapshot): void {
    replica.snapshots = replica.snapshots.filter((one) => one !== snapshot);
    for (const other of this.#replicas.values()) {
      if (other.rollingTo === snapshot && other === replica) other.rollingTo = null;
    }
  }

  async #verifyReplica(replica: Replica, after: After): Promise<void> {
    const { store } = replica;
    this.#check(store !== null, 'no replica');
    const marked = new Set(store.marks());
    await this.#verifyLive(replica, after, marked);
    for (const snapshot of [...replica.snapshots]) {
      if (snapshot.taking || snapshot.dropping) continue;
      const view = store.view(snapshot.id);
      this.#check(view !== null, `${replica.id}@${snapshot.id} cannot be read`);
      const bad = await this.#verifyImage({
        where: `${replica.id}@${snapshot.id}${snapshot.ready ? ' (ready)' : ''}`,
        image: snapshot.image,
        reader: view,
        after: snapshot.ready ? 'clean' : after,
        marked,
        retireSeq: replica.retireSeq,
        collapse: true,
      });
      this.#check(bad.problem === null, bad.problem ?? '');
      if (bad.blocks.length === 0) continue;
      if (snapshot.ready && this.#unreadable) {
        for (const block of bad.blocks) await this.#mend(snapshot, view, block);
        continue;
      }
      this.#check(!snapshot.ready, `${snapshot.id} is ready and has bad blocks`);
      // as a primary does with what it prepared and did not commit
      await this.#dropNow(replica, snapshot);
    }
  }

  async #verifyLive(replica: Replica, after: After, marked: Set<number>): Promise<void> {
    const { store, rollingTo } = replica;
    this.#check(store !== null, 'no replica');
    const common = { reader: store, after, marked, retireSeq: replica.retireSeq };
    const where = replica.id;
    if (rollingTo && after !== 'clean') {
      // one or the other, as a whole
      const before = await this.#verifyImage({
        ...{ ...common, where, image: replica.live, collapse: false },
      });
      if (before.problem !== null) {
        this.#rolledBack(replica, rollingTo, marked);
      }
      replica.rollingTo = null;
    }
    const found = await this.#verifyImage({
      ...{ ...common, where, image: replica.live, collapse: true },
    });
    this.#check(found.problem === null, found.problem ?? '');
    for (const block of found.blocks) replica.unsure.add(block);
    for (const [block, seq] of found.traces) replica.wrote(block, 1, seq);
    for (const [region, seq] of replica.mustMark) {
      if (seq <= replica.retireSeq) continue;
      this.#check(marked.has(region), `${where} after ${after}: region ${region} has no mark`);
    }
    const headParent = replica.store?.headParent ?? null;
    const known = replica.snapshots.some(({ id }) => id === headParent);
    this.#check(headParent === null || known, `${where} grew from ${headParent ?? ''}?`);
  }

  /** Reads all of an image. Problems are returned; blocks without a checksum too. */
  async #verifyImage(options: {
    where: string;
    image: Image;
    reader: ReplicaStore | ReplicaView;
    after: After;
    marked: ReadonlySet<number>;
    retireSeq: number;
    collapse: boolean;
  }): Promise<{ problem: string | null; blocks: number[]; traces: [number, number][] }> {
    const { where, image, reader, after, marked, collapse } = options;
    const blocks: number[] = [];
    const traces: [number, number][] = [];
    const chunksOf = new Set([...image.blocks.keys()].map((b) => Math.floor(b / blocksInChunk)));
    const found: [Entry[], number | null][] = [];
    for (let chunk = 0; chunk * blocksInChunk < image.sizeBlocks; chunk++) {
      if (!chunksOf.has(chunk) && !reader.isAllocated(chunk)) continue;
      const first = chunk * blocksInChunk;
      const count = Math.min(blocksInChunk, image.sizeBlocks - first);
      const target = this.#target.subarray(0, count * blockBytes).fill(0);
      const valid = this.#valid.subarray(0, count).fill(0);
      await this.#call((done) => {
        reader.readUnverified(first * blockBytes, count * blockBytes, target, 0, valid, done);
      });
      const isMarked = marked.has(Math.floor(first / blocksInRegion));
      for (let i = 0; i < count; i++) {
        const entries = image.blocks.get(first + i) ?? [{ value: 0, seq: 0, acked: true }];
        const value = valueOf(target, i * blockBytes, blockBytes);
        const allowed = allowedOf(entries, after);
        const values = allowed.map((entry) => entry.value);
        const said = (): string =>
          `${where}: block ${first + i} after ${after} holds ${value ?? 'a mixture'}, allowed ${values.join(', ')}, ${isMarked ? 'marked' : 'unmarked'}, ${valid[i] === 1 ? 'verifies' : 'does not verify'}`;
        // a block that could not be read when it was copied says so
        const known = !values.includes(anything) && !(valid[i] !== 1 && this.#unreadable);
        const right = value !== null && values.includes(value);
        if (valid[i] === 1) {
          if (known && !right) return { problem: said(), blocks, traces };
        } else {
          // after kill -9 too: the checksum of a small write may have been in memory alone (`SumsFile`)
          const written = after === 'kill' ? entries : allowed;
          if (known && !(written.length > 1 && isMarked)) {
            return { problem: said(), blocks, traces };
          }
          if (known && after === 'kill' && !right) return { problem: said(), blocks, traces };
          blocks.push(first + i);
        }
        const sure = known && !entries.some((entry) => entry.value === anything);
        if (sure && after !== 'clean') {
          const settled = Math.max(
            0,
            entries.findLastIndex((entry) => entry.seq <= options.retireSeq),
          );
          const differs =
            !entries.some((entry, at) => at <= settled && entry.value === value) ||
            entries.some((entry, at) => at > settled && entry.acked && entry.mayBeIdle !== true);
          if (differs && !isMarked) {
            return { problem: `it may differ, and has no mark: ${said()}`, blocks, traces };
          }
          const old = entries.some((entry) => entry.acked && entry.value === value);
          const trace = entries.find((entry) => entry.value === value);
          if (trace && !old) traces.push([first + i, trace.seq]);
        }
        if (image.blocks.has(first + i)) found.push([entries, valid[i] === 1 ? value : null]);
      }
    }
    // what was found is durable: opening synced it
    if (collapse && after !== 'clean') {
      for (const [entries, value] of found) {
        entries.splice(0, entries.length, {
          value: value ?? anything,
          seq: this.#seq,
          acked: true,
        });
      }
    }
    return { problem: null, blocks, traces };
  }

  /** Every chunk whose bytes differ for certain must be said to. */
  #verifyChanged(replica: Replica): void {
    const { store } = replica;
    const taken = replica.snapshots.filter((one) => !one.taking && !one.dropping);
    const images: [string | null, Image][] = [
      [null, replica.live],
      ...taken.map(({ id, image }) => [id, image] as [string, Image]),
    ];
    for (const [from, before] of images) {
      for (const [to, now] of images) {
        if (from === null || from === to) continue;
        const changed = store?.changedChunks(from, to) ?? null;
        this.#check(changed !== null, `${replica.id}: no answer about ${from} and ${to ?? 'live'}`);
        for (const chunk of differing(before, now)) {
          this.#check(
            changed.has(chunk),
            `${replica.id}: chunk ${chunk} differs between ${from} and ${to ?? 'live'}`,
          );
        }
      }
    }
  }

  /** As settle does: blocks without a matching checksum are written again. */
  async #repair(replica: Replica): Promise<void> {
    const blocks = [...replica.unsure];
    replica.unsure.clear();
    for (const block of blocks) {
      const value = ++this.#value;
      const bytes = new Uint8Array(blockBytes);
      fill(bytes, 0, blockBytes, value);
      const seq = ++this.#seq;
      // the machine may stop before it is durable, and then it is as unsure as before
      replica.live.history(block).push({ value, seq, acked: true });
      replica.wrote(block, 1, seq);
      await this.#call((done) => {
        const sums = Uint32Array.of(crc32(bytes));
        replica.store?.write(block * blockBytes, blockBytes, bytes, 0, sums, 0, done);
      });
    }
    await this.#call((done) => replica.store?.flush(done));
    for (const block of blocks) {
      const history = replica.live.history(block);
      history.splice(0, history.length - 1);
    }
  }

  /** Another replica has the block of a ready snapshot (I9). */
  async #mend({ id, image }: Snapshot, view: ReplicaView, block: number): Promise<void> {
    const value = image.latest(block);
    if (value === anything) return;
    const bytes = new Uint8Array(blockBytes);
    fill(bytes, 0, blockBytes, value);
    const [offset, sums] = [block * blockBytes, Uint32Array.of(crc32(bytes))];
    await this.#call((done) => {
      view.write(offset, blockBytes, bytes, 0, sums, 0, done);
    });
    bytes.fill(0xee);
    await this.#call((done) => {
      view.read(offset, blockBytes, bytes, 0, done);
    });
    this.#check(valueOf(bytes, 0, blockBytes) === value, `${id}: block ${block} is not mended`);
  }

  /** Without snapshots and clones nothing may be left of them, and all space comes back. */
  async #emptied(): Promise<void> {
    for (const replica of [...this.#replicas.values()]) {
      for (const snapshot of [...replica.snapshots]) await this.#dropNow(replica, snapshot);
    }
    const [kept] = this.#replicas.values();
    for (const replica of [...this.#replicas.values()]) {
      if (replica === kept) continue;
      await this.#store?.deleteReplica(replica.id);
      this.#replicas.delete(replica.id);
    }
    if (!kept?.store) return;
    let allocated = 0;
    for (let chunk = 0; chunk * blocksInChunk < kept.live.sizeBlocks; chunk++) {
      if (kept.store.isAllocated(chunk)) allocated += chunkBytes;
    }
    for (let turn = 0; ; turn++) {
      const space = kept.store.space();
      const done = space.snapshotBytes === 0;
      this.#check(space.allocatedBytes === allocated, 'allocated bytes are counted wrong');
      if (done) break;
      this.#check(turn < mostTurns, `${space.snapshotBytes} bytes are held by no snapshot`);
      this.#clock.advance(100);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await this.#verify('clean', false);
  }

  // Calls

  #call(make: (done: StoreDone) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      make((error) => {
        if (error) reject(error);
        else resolve();
      });
    });
  }

  /** Runs `acked` when the call succeeded; while the process lives only lack of room may fail one. */
  #start(
    make: (done: StoreDone) => void,
    acked: () => void,
    stale: () => void = () => {},
    isStale: () => boolean = () => false,
  ): void {
    const alive = this.#alive;
    const call = this.#call(make).then(
      () => {
        if (alive.now) acked();
      },
      (error: unknown) => {
        if (!alive.now || this.#mayFail(error)) return;
        const { code } = error as { code?: string };
        if (code === 'STALE_EPOCH' && isStale()) stale();
        else this.#errors.push(`a call failed: ${String(error)}`);
      },
    );
    this.#pending.push(call);
  }

  async #settle(): Promise<void> {
    if (!this.#alive.now) return;
    await this.#race(Promise.all(this.#pending));
    this.#pending = [];
    if (!this.#alive.now || !(this.#full || this.#faulted)) return;
    for (const { store } of this.#replicas.values())
      if (store?.failure) this.#mayFail(store.failure);
    const isSound = !this.#broken && !this.#refused;
    this.#check(!(isSound && this.#tornRead), `a read failed: ${this.#tornRead}`);
    if (this.#broken) {
      await this.#refuses();
      this.#losePower();
    } else if (this.#refused) {
      this.#world.kill();
      this.#alive.now = false;
    }
  }

  /** Settles, and verifies what is there if the disk has room for it. */
  async #lookAtAll(): Promise<void> {
    await this.#settle();
    if (!this.#alive.now || this.#full) return;
    try {
      await this.#race(this.#verify('clean', false));
    } catch (error) {
      // what failed in the background is told to the next call
      if (!this.#mayFail(error)) throw error;
      await this.#settle();
    }
  }

  /** Settles, then makes one call and waits for it; false: the process crashed. */
  async #alone(make: () => Promise<unknown>): Promise<boolean> {
    await this.#settle();
    if (!this.#alive.now) return false;
    await this.#race(make());
    return this.#alive.now;
  }

  async #create(id: string, live: Image, cloneOf: [Replica, Snapshot] | null): Promise<void> {
    const replica = new Replica(id, live);
    replica.creating = true;
    this.#replicas.set(id, replica);
    const identity = {
      replicaId: id,
      volumeId: `v-${id}`,
      segment: 0,
      sizeBytes: live.sizeBlocks * blockBytes,
    };
    const clone = cloneOf && { replicaId: cloneOf[0].id, snapshotId: cloneOf[1].id };
    const disk = this.#store;
    this.#check(disk !== null, 'no disk is open');
    const store = await this.#race(
      clone ? disk.createReplica(identity, { cloneOf: clone }) : disk.createReplica(identity),
    );
    if (!store) return;
    replica.store = store;
    replica.creating = false;
  }

  #replica(pick: number): Replica | null {
    const all = [...this.#replicas.values()].filter((one) => one.store && !one.deleting);
    return all[pick % Math.max(1, all.length)] ?? null;
  }

  #snapshot(replica: Replica, pick: number): Snapshot | null {
    const all = replica.snapshots.filter((one) => !one.taking && !one.dropping);
    return all[pick % Math.max(1, all.length)] ?? null;
  }

  async #do(command: SnapshotCommand): Promise<void> {
    this.steps += 1;
    const replica = this.#replica(command.replica);
    switch (command.kind) {
      case 'settle':
        await this.#settle();
        break;
      case 'reopen':
        await this.#reopen();
        break;
      case 'kill':
      case 'power':
        if (command.kind === 'kill') this.#world.kill();
        else this.#world.powerLoss();
        this.#alive.now = false;
        break;
      case 'crash':
        this.#world.crashAfter(command.after, command.power ? 'power' : 'kill');
        this.#again = command.again;
        break;
      case 'full':
        this.#world.capacityBytes = this.#world.usedBytes() + command.chunks * chunkBytes;
        this.#full = true;
        this.#clock.advance(2_000);
        break;
      case 'room':
        this.#world.capacityBytes = Infinity;
        this.#clock.advance(2_000);
        break;
      case 'verify':
        await this.#lookAtAll();
        break;
      case 'fault':
        this.#arm(command);
        break;
      default:
        if (replica) await this.#doOn(replica, command);
    }
    // pooled calls get a chance to run now and then
    if (this.#value % 3 === 0) await new Promise((resolve) => setImmediate(resolve));
    if (this.#refused || this.#broken) await this.#settle();
  }

  async #doOn(replica: Replica, command: SnapshotCommand): Promise<void> {
    switch (command.kind) {
      case 'write':
        this.#write(replica, command);
        break;
      case 'zero':
        this.#zero(replica, command);
        break;
      case 'read':
        this.#read(replica, command);
        break;
      case 'take':
        this.#takeSnapshot(replica, command.incomplete);
        break;
      case 'confirm':
        this.#confirm(replica, command.pick);
        break;
      case 'drop':
        this.#drop(replica, command.pick);
        break;
      case 'rollback':
        await this.#rollback(replica, command.pick);
        break;
      case 'clone':
        await this.#clone(replica, command.pick, command.larger);
        break;
      case 'remove':
        await this.#remove(replica);
        break;
      case 'resize':
        this.#resize(replica, command.blocks);
        break;
      case 'fill':
        this.#fill(replica, command);
        break;
      case 'complete':
        await this.#complete(replica, command.pick);
        break;
      case 'flush':
      case 'fence':
      case 'view':
      case 'cut':
      case 'retire':
        this.#fact(replica, command.kind);
        break;
      default:
    }
  }

  #range(image: Image, chunk: number, block: number, count: number): [number, number] {
    const first = chunk * blocksInChunk + block;
    return [first, Math.min(count, image.sizeBlocks - first)];
  }

  /** Bytes and sums of new values, and their entries. */
  #payload(count: number): { bytes: Uint8Array; sums: Uint32Array; entries: Entry[] } {
    const bytes = new Uint8Array(count * blockBytes);
    const sums = new Uint32Array(count);
    const entries: Entry[] = [];
    this.#seq += 1;
    for (let i = 0; i < count; i++) {
      const value = ++this.#value;
      fill(bytes, i * blockBytes, blockBytes, value);
      sums[i] = crc32(bytes.subarray(i * blockBytes, (i + 1) * blockBytes));
      entries.push({ value, seq: this.#seq, acked: false });
    }
    return { bytes, sums, entries };
  }

  #write(replica: Replica, command: Extract<SnapshotCommand, { kind: 'write' }>): void {
    const { live, store } = replica;
    const [first, count] = this.#range(live, command.chunk, command.block, command.count);
    if (count <= 0) return;
    const { bytes, sums, entries } = this.#payload(count);
    entries.forEach((entry, i) => live.history(first + i).push(entry));
    const seq = this.#seq;
    const ack = (): void => {
      for (const entry of entries) entry.acked = true;
      replica.wrote(first, count, seq);
    };
    const [offset, length] = [first * blockBytes, count * blockBytes];
    if (command.inline) {
      const alive = this.#alive;
      try {
        if (store?.writeInline(offset, length, bytes, 0, sums, 0) === true) {
          ack();
          return;
        }
      } catch (error) {
        if (alive.now && !this.#mayFail(error)) throw error;
        return;
      }
    }
    this.#start((done) => store?.write(offset, length, bytes, 0, sums, 0, done), ack);
  }

  #zero(replica: Replica, command: Extract<SnapshotCommand, { kind: 'zero' }>): void {
    const { live, store } = replica;
    const [first, count] = this.#range(live, command.chunk, command.block, command.count);
    if (count <= 0) return;
    this.#seq += 1;
    const entries: Entry[] = [];
    const changed: number[] = [];
    const isFilling = this.#isFilledBelow(live);
    for (let i = 0; i < count; i++) {
      const history = live.history(first + i);
      // nothing changes where zeros are known to be, and no mark is owed
      if (history.length === 1 && history[0]?.value === 0) continue;
      // it may find nothing where a resync fills what lies below just now; that compares it again
      const entry: Entry = { value: isFilling ? anything : 0, seq: this.#seq, acked: false };
      // nor where it may have found nothing
      if (!isFilling && isSurelyData(history)) changed.push(first + i);
      else entry.mayBeIdle = true;
      entries.push(entry);
      history.push(entry);
    }
    const seq = this.#seq;
    this.#start(
      (done) => store?.zero(first * blockBytes, count * blockBytes, command.keep, done),
      () => {
        for (const entry of entries) entry.acked = true;
        for (const block of changed) replica.wrote(block, 1, seq);
      },
    );
  }

  #read(replica: Replica, command: Extract<SnapshotCommand, { kind: 'read' }>): void {
    const { store } = replica;
    const snapshot = command.snapshot === null ? null : this.#snapshot(replica, command.snapshot);
    const image = snapshot?.image ?? replica.live;
    const [first, count] = this.#range(image, command.chunk, command.block, command.count);
    if (count <= 0) return;
    const target = new Uint8Array(count * blockBytes).fill(0xee);
    const expected = Array.from({ length: count }, (_, i) => this.#expected(image, first + i));
    const judge = (): void => {
      if (snapshot?.dropping === true) return;
      expected.forEach((values, i) => {
        const value = valueOf(target, i * blockBytes, blockBytes);
        if (values === null || (value !== null && values.includes(value))) return;
        // what lies below may have been filled meanwhile
        if (this.#expected(image, first + i) === null) return;
        const where = `${replica.id}${snapshot ? `@${snapshot.id}` : ''}`;
        this.#errors.push(
          `read of ${where}, block ${first + i}: ${value ?? 'a mixture'}, not ${values.join(' or ')}`,
        );
      });
    };
    const [offset, length] = [first * blockBytes, count * blockBytes];
    if (!snapshot && store?.readInline(offset, length, target, 0) === true) return judge();
    const reader = snapshot ? store?.view(snapshot.id) : store;
    if (!reader) {
      this.#errors.push(`${replica.id}@${snapshot?.id ?? ''} cannot be read`);
      return;
    }
    const alive = this.#alive;
    const call = this.#call((done) => {
      reader.read(offset, length, target, 0, done);
    });
    this.#pending.push(
      call.then(judge, (error: unknown) => {
        if (!alive.now || snapshot?.dropping === true) return;
        const { code } = error as { code?: string };
        if (code === 'NO_SPACE' && (this.#full || this.#faulted)) return;
        if (code === 'DISK_FAILED' && this.#faulted) return;
        if (code === 'CHECKSUM_MISMATCH' && this.#unreadable) return;
        if (code === 'CHECKSUM_MISMATCH' && this.#faulted) {
          this.#tornRead = String(error);
          return;
        }
        // what lies below was being filled, then or meanwhile, which may be seen half done
        const wasFilled = expected.some((values, i) => {
          return values === null || this.#expected(image, first + i) === null;
        });
        if (wasFilled) return;
        this.#errors.push(`a read failed: ${String(error)}`);
      }),
    );
  }

  /** Null: anything. More than one value only after a call that found no room. */
  #expected(image: Image, block: number): number[] | null {
    const entries = image.blocks.get(block);
    if (!entries) return [0];
    const values =
      this.#full || this.#faulted
        ? allowedOf(entries, 'kill').map(({ value }) => value)
        : [entries.at(-1)?.value ?? 0];
    return values.includes(anything) ? null : values;
  }

  #takeSnapshot(replica: Replica, incomplete: boolean): void {
    if (replica.snapshots.length >= mostSnapshots || replica.resizingTo !== null) return;
    const { live, store } = replica;
    const kind = incomplete ? 'incomplete' : 'prepared';
    const image = new Image(live.sizeBlocks, live.parent, live.copy());
    this.#ids += 1;
    const id = `s-${this.#ids.toString(16).padStart(16, '0')}`;
    const snapshot: Snapshot = {
      ...{ id, image, kind, seq: this.#seq, taking: true },
      ...{ dropping: false, ready: false, confirming: false, filling: new Set<number>() },
    };
    replica.live = new Image(live.sizeBlocks, image, live.blocks);
    replica.snapshots.push(snapshot);
    const epoch = this.#epoch;
    this.#start(
      (done) => store?.takeSnapshot(id, epoch, kind, done),
      () => {
        snapshot.taking = false;
        replica.headParent = snapshot;
      },
      () => this.#forget(replica, snapshot),
      // a fence that came right after it may be first
      () => this.#epoch > epoch,
    );
  }

  #confirm(replica: Replica, pick: number): void {
    const snapshot = this.#snapshot(replica, pick);
    if (!snapshot || snapshot.ready || snapshot.confirming || !snapshot.image.exact) return;
    // a resync completes the oldest first: what lies below must not change any more
    for (const { snapshots } of this.#replicas.values()) {
      for (const { image, kind, ready } of snapshots) {
        if (kind === 'incomplete' && !ready && snapshot.image.descendsFrom(image)) return;
      }
    }
    snapshot.confirming = true;
    this.#start(
      (done) => replica.store?.confirmSnapshot(snapshot.id, done),
      () => {
        snapshot.confirming = false;
        snapshot.ready = true;
      },
    );
  }

  #drop(replica: Replica, pick: number): void {
    const snapshot = this.#snapshot(replica, pick);
    if (!snapshot || snapshot.confirming) return;
    snapshot.dropping = true;
    this.#start(
      (done) => replica.store?.dropSnapshot(snapshot.id, done),
      () => this.#forget(replica, snapshot),
    );
  }

  async #dropNow(replica: Replica, snapshot: Snapshot): Promise<void> {
    snapshot.dropping = true;
    await this.#call((done) => replica.store?.dropSnapshot(snapshot.id, done));
    this.#forget(replica, snapshot);
  }

  async #rollback(replica: Replica, pick: number): Promise<void> {
    await this.#settle();
    if (!this.#alive.now) return;
    const snapshot = this.#snapshot(replica, pick);
    if (!snapshot || (snapshot.kind === 'incomplete' && !snapshot.ready)) return;
    replica.rollingTo = snapshot;
    const call = this.#call((done) => replica.store?.rollback(snapshot.id, done));
    try {
      await this.#race(call);
    } catch (error) {
      if (!this.#mayFail(error)) throw error;
      return;
    }
    if (!this.#alive.now) return;
    replica.rollingTo = null;
    this.#rolledBack(replica, snapshot, new Set(replica.store?.marks()));
  }

  #rolledBack(replica: Replica, snapshot: Snapshot, marked: ReadonlySet<number>): void {
    const { live } = replica;
    this.#seq += 1;
    const now = new Image(live.sizeBlocks, snapshot.image, snapshot.image.copy());
    for (const block of differingBlocks(live, now)) {
      const region = Math.floor(block / blocksInRegion);
      this.#check(marked.has(region), `${replica.id}: rolled back, region ${region} has no mark`);
      replica.mustMark.set(region, this.#seq);
      replica.wrote(block, 1, this.#seq);
    }
    replica.live = now;
    replica.headParent = snapshot;
  }

  async #clone(replica: Replica, pick: number, larger: number): Promise<void> {
    if (this.#replicas.size >= mostReplicas) return;
    await this.#settle();
    const snapshot = this.#snapshot(replica, pick);
    if (!this.#alive.now || snapshot?.ready !== true) return;
    const { image } = snapshot;
    const sizeBlocks = Math.min(mostBlocks, image.sizeBlocks + larger);
    this.#ids += 1;
    const live = new Image(sizeBlocks, image, image.copy());
    try {
      await this.#create(`r-${this.#ids + 1}`, live, [replica, snapshot]);
    } catch (error) {
      if (!this.#mayFail(error)) throw error;
    }
  }

  async #remove(replica: Replica): Promise<void> {
    if (this.#replicas.size < 2) return;
    try {
      const ended = await this.#alone(() => {
        replica.deleting = true;
        return this.#store?.deleteReplica(replica.id) ?? Promise.resolve();
      });
      if (ended) this.#replicas.delete(replica.id);
    } catch (error) {
      if (!this.#mayFail(error)) throw error;
    }
  }

  #resize(replica: Replica, blocks: number): void {
    if (replica.resizingTo !== null || replica.snapshots.some((one) => one.taking)) return;
    const to = Math.min(mostBlocks, replica.live.sizeBlocks + blocks);
    replica.resizingTo = to;
    const { live } = replica;
    this.#start(
      (done) => replica.store?.resize(to * blockBytes, done),
      () => {
        replica.resizingTo = null;
        // a snapshot may have been taken meanwhile
        live.sizeBlocks = Math.max(live.sizeBlocks, to);
        replica.live.sizeBlocks = to;
      },
    );
  }

  /** A resync writes into a snapshot that is not equal to the source's yet. */
  #fill(replica: Replica, command: Extract<SnapshotCommand, { kind: 'fill' }>): void {
    const snapshot = this.#snapshot(replica, command.pick);
    if (!snapshot || snapshot.kind !== 'incomplete' || snapshot.ready || snapshot.confirming)
      return;
    const { image } = snapshot;
    const [first, count] = this.#range(image, command.chunk, command.block, command.count);
    if (count <= 0) return;
    const view = replica.store?.view(snapshot.id);
    if (!view) {
      this.#errors.push(`${replica.id}@${snapshot.id} cannot be filled`);
      return;
    }
    const [offset, length] = [first * blockBytes, count * blockBytes];
    const { bytes, sums, entries } = this.#payload(count);
    // a resync fills one image at a time, and what it had begun before is compared once more
    const zero = this.#isFilledBelow(image) ? anything : 0;
    if (command.zero) for (const entry of entries) entry.value = zero;
    const changed: number[] = [];
    entries.forEach((entry, i) => {
      const history = image.history(first + i);
      // nothing changes where zeros are known to be, and no mark is owed
      if (command.zero && history.length === 1 && history[0]?.value === 0) return;
      const mayFindNothing = command.zero && !isSurelyData(history);
      if (entry.value !== anything && !mayFindNothing) changed.push(first + i);
      else entry.mayBeIdle = true;
      history.push(entry);
    });
    this.#shown(image, first, count);
    const seq = this.#seq;
    snapshot.filling.add(seq);
    this.#start(
      (done) => {
        if (command.zero) view.zero(offset, length, done);
        else view.write(offset, length, bytes, 0, sums, 0, done);
      },
      () => {
        for (const entry of entries) entry.acked = true;
        for (const block of changed) replica.wrote(block, 1, seq);
        snapshot.filling.delete(seq);
      },
    );
  }

  /** Zeros that come now may find nothing to free, and what lies below come after them. */
  #isFilledBelow(image: Image): boolean {
    const all = [...this.#replicas.values()].flatMap(({ snapshots }) => snapshots);
    return all.some((one) => one.filling.size > 0 && image.descendsFrom(one.image));
  }

  /** What grew from the image may show what was filled in. */
  #shown(image: Image, first: number, count: number): void {
    // copies are whole chunks, and so is what is shown through
    const from = Math.floor(first / blocksInChunk) * blocksInChunk;
    const to = Math.ceil((first + count) / blocksInChunk) * blocksInChunk;
    for (const replica of this.#replicas.values()) {
      const images = [replica.live, ...replica.snapshots.map((one) => one.image)];
      for (const other of images) {
        if (!other.descendsFrom(image)) continue;
        for (let block = from; block < Math.min(to, other.sizeBlocks); block++) {
          if (block >= first && block < first + count) {
            other.history(block).push({ value: anything, seq: this.#seq, acked: true });
          }
        }
      }
    }
  }

  /** Fills what is left of an incomplete snapshot, and confirms it. */
  async #complete(replica: Replica, pick: number): Promise<void> {
    const snapshot = this.#snapshot(replica, pick);
    if (!snapshot || snapshot.kind !== 'incomplete' || snapshot.ready) return;
    const { image } = snapshot;
    for (const [block, entries] of [...image.blocks]) {
      if (!entries.some(({ value }) => value === anything)) continue;
      const [chunk, at] = [Math.floor(block / blocksInChunk), block % blocksInChunk];
      const place = { chunk, block: at, count: 1, replica: 0, zero: false };
      const index = replica.snapshots.filter((one) => !one.taking && !one.dropping);
      this.#fill(replica, { kind: 'fill', pick: index.indexOf(snapshot), ...place });
    }
    await this.#settle();
    if (!this.#alive.now) return;
    const flushed = replica.beginFlush(this.#seq);
    let wasFlushed = false;
    this.#start(
      (done) => replica.store?.flush(done),
      () => (wasFlushed = true),
    );
    await this.#settle();
    if (!this.#alive.now || !wasFlushed) return;
    flushed();
    const index = replica.snapshots.filter((one) => !one.taking && !one.dropping);
    this.#confirm(replica, index.indexOf(snapshot));
  }

  #fact(replica: Replica, kind: 'flush' | 'fence' | 'view' | 'cut' | 'retire'): void {
    const seq = this.#seq;
    const { store } = replica;
    switch (kind) {
      case 'flush':
        this.#start((done) => store?.flush(done), replica.beginFlush(seq));
        break;
      case 'fence': {
        const epoch = ++this.#epoch;
        this.#start(
          (done) => store?.fence(epoch, done),
          () => (replica.epochAcked = epoch),
        );
        break;
      }
      case 'view': {
        const members = [replica.id];
        const view = { epoch: this.#epoch, setRevision: ++this.#revision, members };
        this.#start(
          (done) => store?.recordSetView(view, done),
          () => (replica.viewAcked = view),
        );
        break;
      }
      case 'cut':
        store?.cutMarks();
        replica.lastCut = { seq };
        break;
      case 'retire':
        this.#retire(replica);
        break;
    }
  }

  #retire(replica: Replica): void {
    const cut = replica.lastCut;
    const generation = { epoch: 1, n: ++this.#generationN };
    replica.retireSeq = cut?.seq ?? -1;
    this.#start(
      (done) => replica.store?.retireMarks(generation, done),
      () => {
        replica.generationAcked = generation;
        replica.suspect = false;
        if (!cut) return;
        replica.cuts.push({ generation, seq: cut.seq });
        for (const [region, seq] of replica.mustMark) {
          if (seq <= cut.seq) replica.mustMark.delete(region);
        }
      },
    );
  }

  async #reopen(): Promise<void> {
    await this.#settle();
    if (!this.#alive.now) return;
    this.#world.capacityBytes = Infinity;
    this.#full = false;
    this.#maybeClean = true;
    await this.#race(this.#store?.close() ?? Promise.resolve());
    if (!this.#alive.now) return;
    if (this.#broken) {
      this.#losePower();
      return;
    }
    for (const replica of this.#replicas.values()) replica.beginFlush(this.#seq)();
    await this.#open('clean');
    if (!this.#alive.now) return;
    await this.#race(this.#verify('clean', true));
  }
}

/** What was asked for last is data: zeros over it change something, in memory at least. */
function isSurelyData(history: readonly Entry[]): boolean {
  const value = history.at(-1)?.value ?? 0;
  return value !== 0 && value !== anything;
}

/** Blocks that hold another value for certain. */
function* differingBlocks(a: Image, b: Image): Generator<number> {
  for (const block of new Set([...a.blocks.keys(), ...b.blocks.keys()])) {
    const [one, other] = [a.blocks.get(block), b.blocks.get(block)];
    if ((one?.length ?? 1) > 1 || (other?.length ?? 1) > 1) continue;
    const [was, is] = [a.latest(block), b.latest(block)];
    if (was !== anything && is !== anything && was !== is) yield block;
  }
}

function differing(a: Image, b: Image): Set<number> {
  return new Set([...differingBlocks(a, b)].map((block) => Math.floor(block / blocksInChunk)));
}
