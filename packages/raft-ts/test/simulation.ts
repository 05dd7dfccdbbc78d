import assert from 'node:assert/strict';
import { batchOf, RawNode, type Ready } from '../src/core/raw-node.ts';
import {
  decodeMembership,
  describeMembership,
  encodeMembership,
  everyMember,
  left,
  type MemberChange,
  type Membership,
} from '../src/core/membership.ts';
import { jointVoteResult } from '../src/core/quorum.ts';
import { reaches, verifyStoredState } from '../src/core/storage.ts';
import { crc32 } from '../src/core/crc32.ts';
import {
  applyBatch,
  readContent,
  reopened,
  storedOf,
  type MemoryState,
} from '../src/memory-storage.ts';
import {
  decodeMessages,
  defaultLimits,
  encodeMessages,
  membershipOf,
  RaftError,
  type RaftMessage,
  type SaveBatch,
  type OwnSnapshot,
  type SnapshotPiece,
} from '../src/index.ts';
import { seededRandom } from '../src/testing/index.ts';
import { Checker, type Observed } from './simulation-checker.ts';
import { SimulationNetwork } from './simulation-network.ts';

/**
 * A cluster of pure cores in a world where anything happens at any time: messages are lost,
 * repeated, delayed and reordered, the network is cut, members crash in the middle of a save and
 * forget what was not synced. Everything is drawn from the seed.
 */
export interface SimulationOptions {
  seed: number;
  /** voters at first */
  members: number;
  /** more that may be added, and all may be removed: the members change (default 0: they do not) */
  spares?: number;
  /**
   * Disks that forget what they acknowledged: one at a time, or any number. With `many`, or while the
   * members change, there may be no way back: then the cluster must wait, and say nothing wrong.
   * @default one, and none while the members change
   */
  losses?: 'one' | 'many';
  steps: number;
  /** Breaks a rule on purpose, to see that the checker would notice. */
  sabotage?:
    'answerBeforeSave' | 'forgetVote' | 'forgetTail' | 'staleReads' | 'skipJoint' | 'voteWithLoss';
}

interface Save {
  ready: Ready;
  batch: SaveBatch;
  own: OwnSnapshot | null;
}

/** An own log snapshot that is written piece by piece. */
interface Making {
  index: number;
  term: number;
  membership: Membership;
  content: Uint8Array;
  written: number;
}

interface Member extends Observed {
  disk: MemoryState;
  making: Making | null;
  save: Save | null;
  up: boolean;
  applied: number;
  state: string;
  /** commit index of the whole cluster when a read began, by context */
  reads: Map<number, number>;
}

const electionTicks = 5;
const text = new TextEncoder();

export class Simulation {
  readonly checker: Checker;
  readonly #options: SimulationOptions;
  readonly #random: () => number;
  readonly #ids: string[];
  readonly #members: Member[];
  readonly #network: SimulationNetwork;
  readonly #slow = new Set<string>();
  /** stopped by SIGSTOP, as it were: nothing is read, written or counted */
  readonly #paused = new Set<string>();
  /** disks that take no write */
  readonly #broken = new Set<string>();
  /** it healed, but waits for entries that too many disks have lost */
  isStuck = false;
  #proposed = 0;
  #context = 0;
  stats = {
    crashes: 0,
    snapshots: 0,
    reads: 0,
    proposals: 0,
    changes: 0,
    joint: 0,
    transfers: 0,
    losses: 0,
    pauses: 0,
    failedSaves: 0,
    late: 0,
  };

  constructor(options: SimulationOptions) {
    this.#options = options;
    this.#random = seededRandom(options.seed);
    const count = options.members + (options.spares ?? 0);
    this.#ids = Array.from({ length: count }, (_, i) => `n${i + 1}`);
    this.checker = new Checker();
    this.#network = new SimulationNetwork(this.#ids, this.#random);
    const disk: MemoryState = {
      hardState: { term: 0, vote: null, commit: 0 },
      snapshot: { index: 0, term: 0, membership: membershipOf([]), sizeBytes: 0, checksum: 0 },
      start: { index: 0, term: 0 },
      entries: [],
    };
    const first = membershipOf(this.#ids.slice(0, options.members));
    this.#members = this.#ids.map((id) => {
      // who joins later begins with nothing
      const membership = first.voters.includes(id) ? first : membershipOf([]);
      return this.#boot(id, { ...disk, snapshot: { ...disk.snapshot, membership } });
    });
  }

  run(): void {
    for (let i = 0; i < this.#options.steps; i++) this.#step();
    this.#heal();
    this.stats.late = this.#network.late;
  }

  #boot(id: string, before: MemoryState): Member {
    const disk = reopened(before);
    verifyStoredState(disk);
    const raw = new RawNode(
      {
        id,
        electionTicks,
        heartbeatTicks: 1,
        random: this.#random,
        limits: {
          ...defaultLimits,
          appendBytes: 80,
          inflightMessages: 3,
          trailingBytes: 200,
          snapshotChunkBytes: 3,
        },
      },
      { ...storedOf(disk), commit: disk.hardState.commit },
    );
    return {
      id,
      raw,
      disk,
      making: null,
      save: null,
      up: true,
      applied: 0,
      state: '',
      reads: new Map(),
      lost: [],
    };
  }

  #pick<T>(list: T[]): T | undefined {
    return list[Math.floor(this.#random() * list.length)];
  }

  #step(): void {
    const dice = this.#random() * 100;
    const member = this.#pick(this.#members);
    if (!member) return;
    const input = (work: (raw: RawNode) => void) => {
      this.#input(member, work);
    };
    if (dice < 57) this.#deliver();
    else if (dice < 68) this.#tick(member);
    else if (dice < 82) this.#finishSave(member);
    else if (dice < 90) this.#propose();
    else if (dice < 94) this.#read();
    else if (dice < 96.5) this.#compact(member);
    else if (dice < 98.5) this.#crashOrRestart(member, 0.3);
    else if (dice < 98.9) this.#cut();
    else if (dice < 99.6) this.#mend();
    else if (dice < 99.8 || !this.#options.spares) input((raw) => raw.campaign());
    const often = this.#options.sabotage === 'skipJoint' ? 0.4 : 0.25;
    if (this.#options.spares && this.#random() < often) this.#changeMembers();
    if (this.#random() < 0.004) this.#transfer();
    if (this.#random() < 0.003) this.#pause(member);
    if (this.#random() < 0.01) this.#paused.clear();
    if (this.#random() < 0.002) this.#broken.add(member.id);
    // two that stand at once, and one that votes, crashes and votes again
    if (this.#options.sabotage === 'forgetVote' && this.#random() < 0.05) this.#rivals();
  }

  #input(member: Member, input: (raw: RawNode) => void): void {
    if (!member.up || this.#paused.has(member.id)) return;
    input(member.raw);
    this.#pump(member);
    this.checker.check(member, this.#members);
  }

  /** What the driver does after any input. */
  #pump(member: Member): void {
    const { raw } = member;
    for (;;) {
      this.#post(raw.takeMessages());
      this.#postChunks(member);
      this.#apply(member);
      if (member.save || !raw.hasReady()) return;
      // as the driver does before each save: a leader's snapshot takes the place of its own
      if (raw.log.mustRestore) member.making = null;
      const ready = raw.ready();
      if (RawNode.needsNoWrite(ready)) {
        this.#post(raw.saved(ready));
      } else {
        this.#beginSave(member, ready, null);
        return;
      }
    }
  }

  /** Chunks of log snapshots, from the disk as it is now; some of them in a while. */
  #postChunks({ raw, disk }: Member): void {
    while (this.#random() < 0.8) {
      const order = raw.takeChunkOrder();
      if (!order) return;
      const { snapshot, offset, length } = order;
      const message = raw.chunkOf(order, readContent(disk, snapshot, offset, length));
      if (message) this.#post([message]);
    }
  }

  #beginSave(member: Member, ready: Ready, own: Save['own']): void {
    member.save = { ready, own, batch: batchOf(ready, own, member.raw.snapshotsInUse()) };
    if (this.#options.sabotage === 'answerBeforeSave') {
      this.#post(ready.messagesAfterSave.filter(({ to }) => to !== member.id));
    }
  }

  #write(member: Member, batch: SaveBatch): void {
    const disk = applyBatch(member.disk, batch);
    this.checker.saved(member.id, member.disk, disk);
    verifyStoredState(disk);
    member.disk = disk;
    if (!disk.recoverTo) member.lost = [];
  }

  #finishSave(member: Member): void {
    const { save } = member;
    if (!save || !member.up || this.#paused.has(member.id)) return;
    if (this.#broken.has(member.id)) {
      // no room, or a failed sync: what of it is on the disk is unknown, and the driver stops for good
      this.stats.failedSaves++;
      this.#crashOrRestart(member, 1);
      return;
    }
    member.save = null;
    this.#write(member, save.batch);
    this.#input(member, (raw) => {
      const compaction = save.own?.compaction;
      if (compaction) raw.compacted(compaction.snapshot, compaction.start);
      this.#post(raw.saved(save.ready));
    });
  }

  #apply(member: Member): void {
    const { raw } = member;
    const snapshot = raw.takeSnapshot();
    // the state machine takes its time
    if (snapshot && this.#random() < 0.7) {
      this.stats.snapshots++;
      const content = readContent(member.disk, snapshot, 0, snapshot.sizeBytes);
      member.applied = snapshot.index;
      member.state = new TextDecoder().decode(content?.data);
      assert.ok(raw.restored(snapshot));
      const expected = this.#stateAt(snapshot.index);
      assert.equal(member.state, expected, 'a snapshot is the state at its index');
    }
    this.checker.check(member, this.#members);
    for (let entries = raw.takeCommitted(); entries.length > 0; entries = raw.takeCommitted()) {
      // a change of members among them may have let more be committed
      this.checker.check(member, this.#members);
      this.checker.applied(member.id, entries, member.applied);
      for (const { data, index } of entries) {
        member.applied = index;
        member.state = digest(member.state, data);
      }
    }
    for (const { context, index } of raw.takeReads()) {
      this.stats.reads++;
      const least = member.reads.get(context);
      assert.ok(
        least !== undefined && index >= least,
        'a read misses what was committed before it',
      );
    }
  }

  #stateAt(index: number): string {
    const entries = this.checker.committed.slice(1, index + 1);
    return entries.reduce((state, { data }) => digest(state, data), '');
  }

  #post(messages: RaftMessage[]): void {
    for (const message of messages) {
      const { from, to } = message;
      this.#network.post({ from, to, bytes: encodeMessages([message]) });
    }
  }

  #deliver(): void {
    const packet = this.#network.take();
    const member = this.#members.find(({ id }) => id === packet?.to);
    if (!packet || !member) return;
    if (this.#paused.has(member.id)) {
      this.#network.post(packet);
      return;
    }
    this.#input(member, (raw) => {
      for (const message of decodeMessages(packet.bytes)) raw.step(message);
    });
  }

  #leaders(): Member[] {
    return this.#members.filter(({ up, raw }) => up && raw.status.role === 'leader');
  }

  #propose(): void {
    const leader = this.#pick(this.#leaders());
    if (!leader) return;
    this.stats.proposals++;
    const count = 1 + Math.floor(this.#random() * 3);
    const group = Array.from({ length: count }, () => text.encode(`p${this.#proposed++}`));
    this.#input(leader, (raw) => {
      if (raw.transferee === null) raw.propose(group);
    });
  }

  #changeMembers(): void {
    if (this.#options.spares === undefined) return;
    const leader = this.#pick(this.#leaders());
    if (!leader) return;
    const count = 1 + Math.floor(this.#random() * 3);
    const changes = Array.from({ length: count }, (): MemberChange => {
      const type = this.#pick<MemberChange['type']>([
        'addVoter',
        'addVoter',
        'addLearner',
        'remove',
      ]);
      return { type: type ?? 'remove', id: this.#pick(this.#ids) ?? '' };
    });
    this.#input(leader, (raw) => {
      this.#tryChange(raw, changes);
    });
  }

  #rivals(): void {
    for (const each of this.#members) {
      if (this.#random() < 0.7) this.#input(each, (raw) => raw.campaign());
      else this.#crashOrRestart(each, 0.8);
    }
  }

  #transfer(): void {
    const leader = this.#pick(this.#leaders());
    const to = this.#pick(leader?.raw.membership.voters ?? []);
    if (!leader || to === undefined || to === leader.id || leader.raw.transferee !== null) return;
    this.stats.transfers++;
    this.#input(leader, (raw) => {
      raw.transferLeadership(to);
    });
  }

  #tryChange(raw: RawNode, changes: MemberChange[]): void {
    let index: number;
    try {
      index = raw.proposeChange(changes, this.#random() < 0.2);
    } catch (error) {
      if (error instanceof RaftError && error.code !== 'INTERNAL') return;
      throw error;
    }
    this.stats.changes++;
    const [entry] = raw.log.entriesFrom(index, 1);
    assert.ok(entry);
    const next = decodeMembership(entry.data);
    if (next.outgoing.length > 0) this.stats.joint++;
    if (this.#options.sabotage !== 'skipJoint') return;
    // the leader, and who gets the entry, goes by the end of the joint membership at once
    entry.data = encodeMembership(left(next));
    Object.assign(raw.membership, left(next));
  }

  #read(): void {
    const leader = this.#pick(this.#leaders());
    if (!leader) return;
    const context = ++this.#context;
    leader.reads.set(context, this.checker.committed.length - 1);
    if (this.#options.sabotage === 'staleReads') {
      const least = leader.reads.get(context) ?? 0;
      assert.ok(leader.raw.log.committed >= least, 'a read misses what was committed before it');
      return;
    }
    this.#input(leader, (raw) => {
      raw.readIndex(context);
    });
  }

  #compact(member: Member): void {
    const { raw } = member;
    if (!member.up || this.#paused.has(member.id)) return;
    if (raw.log.mustRestore) member.making = null;
    if (member.save || raw.log.mustRestore) return;
    if (!member.making) {
      if (member.applied === raw.log.snapshot.index) return;
      const term = raw.log.termAt(member.applied);
      assert.ok(term !== undefined);
      const membership = raw.log.membershipAt(member.applied);
      const content = text.encode(member.state);
      member.making = { index: member.applied, term, membership, content, written: 0 };
    }
    const own = this.#nextOfSnapshot(member.making);
    if (own.compaction) {
      const { index } = member.making;
      own.compaction.start = raw.compactionPoint(Math.floor(this.#random() * 4), index);
      member.making = null;
    }
    this.#beginSave(member, raw.ready(true), own);
  }

  /** Some bytes of it, or all that are left. */
  #nextOfSnapshot(making: Making): OwnSnapshot {
    const { index, term, membership, content, written: offset } = making;
    const count = this.#random() < 0.5 ? content.length : Math.ceil(this.#random() * 4);
    const data = content.subarray(offset, offset + count);
    making.written += data.length;
    const checksum = crc32(content.subarray(0, making.written));
    const piece: SnapshotPiece = {
      source: 'made',
      index,
      term,
      totalBytes: null,
      offset,
      data,
      checksum,
    };
    const isWhole = making.written === content.length;
    const snapshot = { index, term, membership, sizeBytes: content.length, checksum };
    const start = { index, term };
    return { pieces: [piece], compaction: isWhole ? { snapshot, start } : null };
  }

  /** A member that is down starts; one that is up crashes with some probability. */
  #crashOrRestart(member: Member, crashProbability: number): void {
    if (member.up && this.#random() >= crashProbability) return;
    if (member.up) {
      this.stats.crashes++;
      // the write under way is one batch: on the disk as a whole, or not at all
      if (member.save && this.#random() < 0.5) this.#write(member, member.save.batch);
      member.save = null;
      member.up = false;
      return;
    }
    this.#paused.delete(member.id);
    if (this.#random() < 0.5) this.#broken.delete(member.id);
    this.#loseEntries(member);
    const { disk, lost } = member;
    const { sabotage } = this.#options;
    if (sabotage === 'forgetVote') disk.hardState = { ...disk.hardState, vote: null };
    if (sabotage === 'forgetTail' && disk.entries.length > 0) {
      const entries = disk.entries.slice(0, -1);
      const last = disk.start.index + entries.length;
      if (last >= disk.snapshot.index) {
        const commit = Math.min(disk.hardState.commit, last);
        Object.assign(disk, { entries, hardState: { ...disk.hardState, commit } });
      }
    }
    Object.assign(member, this.#boot(member.id, disk), { lost });
    this.checker.restarted(member);
    this.#pump(member);
  }

  /** A disk forgets its end, which it notices; see `losses`. */
  #loseEntries(member: Member): void {
    const { disk } = member;
    const { spares, losses, sabotage } = this.#options;
    const mayLose = losses !== undefined || !spares;
    const isSafe = losses === 'many' || this.#members.every((each) => each.lost.length === 0);
    if (!mayLose || !isSafe || sabotage === 'forgetVote') return;
    if (this.#random() < (losses === 'many' ? 0.9 : 0.7)) return;
    const afterSnapshot = disk.start.index + disk.entries.length - disk.snapshot.index;
    const count = Math.floor(this.#random() * (afterSnapshot + 1));
    if (count === 0) return;
    this.stats.losses++;
    const { index, term } = disk.entries.at(-1) ?? disk.start;
    const entries = disk.entries.slice(0, -count);
    const commit = Math.min(disk.hardState.commit, disk.start.index + entries.length);
    member.lost = [...member.lost, disk];
    const end = { index, term };
    const known = disk.recoverTo;
    const recoverTo = known && reaches(known, end) ? known : end;
    member.disk = {
      ...disk,
      entries,
      hardState: { ...disk.hardState, commit },
      ...(sabotage === 'voteWithLoss' ? {} : { recoverTo }),
    };
  }

  /** A random cut, or a leader alone, whose clock may be slow: it goes on to believe in itself. */
  #cut(): void {
    if (this.#random() < 0.3) {
      this.#network.cutOneWay();
      return;
    }
    const leader = this.#pick(this.#leaders());
    if (!leader || this.#random() < 0.3) {
      this.#network.cut();
      return;
    }
    this.#network.isolate(leader.id);
    if (this.#random() < 0.7) this.#slow.add(leader.id);
  }

  #mend(): void {
    this.#network.heal();
    this.#slow.clear();
    this.#paused.clear();
  }

  #pause(member: Member): void {
    if (!member.up) return;
    this.stats.pauses++;
    this.#paused.add(member.id);
  }

  #tick(member: Member): void {
    if (this.#paused.has(member.id)) return;
    if (this.#slow.has(member.id) && this.#random() < 0.9) return;
    this.#input(member, (raw) => {
      raw.tick();
    });
  }

  /** Nothing fails any more: a leader is found, a proposal is committed, all become equal. */
  #heal(): void {
    this.#mend();
    this.#broken.clear();
    for (const member of this.#members) if (!member.up) this.#crashOrRestart(member, 0);
    const proposed = this.#proposed;
    for (let round = 0; round < 3000; round++) {
      for (const member of this.#members) {
        this.#input(member, (raw) => {
          raw.tick();
        });
        this.#finishSave(member);
      }
      for (let n = this.#network.waiting * 2; n > 0; n--) this.#deliver();
      // again and again: a leader that is deposed right then may lose one
      if (round % 100 === 21) this.#propose();
      if (this.#proposed > proposed && this.#converged()) return;
    }
    this.isStuck = this.#mayBeStuck();
    if (!this.isStuck) assert.fail('the healed cluster did not become equal');
  }

  /**
   * The cluster may wait for ever only if nobody can be elected: whoever might stand lacks a majority
   * of those who have lost nothing and know no more than it.
   */
  #mayBeStuck(): boolean {
    const { losses, spares } = this.#options;
    if (losses !== 'many' && (losses !== 'one' || !spares)) return false;
    const healthy = this.#members.filter(({ raw }) => raw.recoverTo === null);
    return healthy.every(({ raw: { log } }) => {
      const friends = healthy.filter(({ raw }) => raw.log.isUpToDate(log.lastIndex, log.lastTerm));
      const votes = new Map(friends.map(({ id }) => [id, true]));
      return jointVoteResult(log.membership, votes) !== 'won';
    });
  }

  /** For the message of a failure. */
  peek(): string {
    const lines = this.#members.map(({ raw, applied, up, state }) => {
      const { id, role, term, commitIndex } = raw.status;
      const members = describeMembership(raw.membership);
      return `${id} ${up ? role : 'down'} term ${term} log ${raw.log.firstIndex}-${raw.log.lastIndex} committed ${commitIndex} applied ${applied} state ${state}: ${members}`;
    });
    return lines.join('\n');
  }

  /** Those who are members in the end. */
  #current(): Member[] {
    const [leader] = this.#leaders().sort((a, b) => b.raw.status.term - a.raw.status.term);
    const ids = leader ? everyMember(leader.raw.membership) : [];
    return this.#members.filter(({ id }) => ids.includes(id));
  }

  #converged(): boolean {
    const last = this.checker.committed.length - 1;
    const tail = this.checker.committed[last];
    const isOurs = tail !== undefined && new TextDecoder().decode(tail.data) !== '';
    return (
      isOurs &&
      this.#current().length > 0 &&
      this.#current().every(({ raw, applied, state }) => {
        const isSame = state === this.#current()[0]?.state;
        return applied === last && isSame && raw.membership.outgoing.length === 0;
      })
    );
  }
}

/** The state of a member: a number that depends on every entry and their order. */
function digest(state: string, data: Uint8Array): string {
  let hash = Number(state === '' ? 17 : state);
  for (const byte of data) hash = (Math.imul(hash, 31) + byte) >>> 0;
  return String(Math.imul(hash, 31) >>> 0);
}
