import { batchOf, RawNode, type Ready } from '../src/core/raw-node.ts';
import { decodeMembership, describeMembership } from '../src/core/membership.ts';
import { verifyStoredState } from '../src/core/storage.ts';
import {
  applyBatch,
  readContent,
  reopened,
  storedOf,
  type MemoryState,
} from '../src/memory-storage.ts';
import { inOnePiece } from '../src/core/whole-snapshot.ts';
import { defaultLimits, membershipOf, type Entry, type RaftMessage } from '../src/index.ts';

interface Member {
  raw: RawNode;
  disk: MemoryState;
  /** under way, while saves are held */
  save: Ready | null;
  holdSaves: boolean;
  items: string[];
  lastRole: string;
}

export interface Filter {
  from?: string;
  to?: string;
  type?: string;
}

/**
 * A few cores whose every word waits in `network` until the scenario delivers or drops it. What
 * happens is written to `out`, one line per event. Election timeouts are three ticks for all.
 */
export class ScenarioCluster {
  readonly out: string[] = [];
  network: RaftMessage[] = [];
  readonly #members = new Map<string, Member>();
  #voters: string[] = [];
  #readContext = 0;
  readonly limits = { ...defaultLimits };

  addNodes(count: number): void {
    this.#voters = Array.from({ length: count }, (_, i) => String(i + 1));
    for (const id of this.#voters) {
      this.#boot(id, {
        hardState: { term: 0, vote: null, commit: 0 },
        snapshot: {
          index: 0,
          term: 0,
          membership: membershipOf(this.#voters),
          sizeBytes: 0,
          checksum: 0,
        },
        start: { index: 0, term: 0 },
        entries: [],
      });
    }
  }

  addJoining(id: string): void {
    this.#voters = [...this.#voters, id];
    this.#boot(id, {
      hardState: { term: 0, vote: null, commit: 0 },
      snapshot: { index: 0, term: 0, membership: membershipOf([]), sizeBytes: 0, checksum: 0 },
      start: { index: 0, term: 0 },
      entries: [],
    });
  }

  /** As if this log had come about by an earlier life; terms are those of entries 1, 2, … */
  setLog(id: string, terms: number[], term: number, commit: number): void {
    const { disk } = this.#member(id);
    const entries = terms.map((t, i): Entry => {
      return { index: i + 1, term: t, type: 'normal', data: Buffer.from(`${i + 1}.${t}`) };
    });
    this.#boot(id, { ...disk, entries, hardState: { term, vote: null, commit } });
  }

  #boot(id: string, before: MemoryState): void {
    const disk = reopened(before);
    verifyStoredState(disk);
    const raw = new RawNode(
      {
        id,
        electionTicks: 3,
        heartbeatTicks: 1,
        random: () => 0,
        limits: this.limits,
      },
      { ...storedOf(disk), commit: disk.hardState.commit },
    );
    this.#members.set(id, { raw, disk, save: null, holdSaves: false, items: [], lastRole: '' });
    this.#pump(id);
  }

  #member(id: string): Member {
    const member = this.#members.get(id);
    if (!member) throw new Error(`no node ${id}`);
    return member;
  }

  input(id: string, work: (raw: RawNode) => void): void {
    work(this.#member(id).raw);
    this.#pump(id);
  }

  read(id: string): void {
    this.input(id, (raw) => {
      raw.readIndex(++this.#readContext);
    });
  }

  #pump(id: string): void {
    const member = this.#member(id);
    const { raw } = member;
    for (;;) {
      this.#say(raw.takeMessages());
      this.#say(this.#chunks(member));
      this.#apply(id, member);
      this.#tellRole(id, member);
      if (member.save || !raw.hasReady()) return;
      member.save = raw.ready();
      if (member.holdSaves && !RawNode.needsNoWrite(member.save)) return;
      this.#finishSave(id, member);
    }
  }

  #chunks({ raw, disk }: Member): RaftMessage[] {
    const messages: RaftMessage[] = [];
    for (let order = raw.takeChunkOrder(); order; order = raw.takeChunkOrder()) {
      const read = readContent(disk, order.snapshot, order.offset, order.length);
      const message = raw.chunkOf(order, read);
      if (message) messages.push(message);
    }
    return messages;
  }

  #finishSave(id: string, member: Member): void {
    const { save } = member;
    member.save = null;
    if (!save) return;
    if (!RawNode.needsNoWrite(save)) {
      member.disk = applyBatch(member.disk, batchOf(save, null));
      this.out.push(`${id} saves ${describeSave(save)}`);
    }
    this.#say(member.raw.saved(save));
  }

  holdSaves(id: string): void {
    this.#member(id).holdSaves = true;
  }

  finishSaves(id: string): void {
    const member = this.#member(id);
    member.holdSaves = false;
    this.#finishSave(id, member);
    this.#pump(id);
  }

  /** What was not saved is lost, and so is the state machine. */
  restart(id: string): void {
    this.#boot(id, this.#member(id).disk);
  }

  /** The store forgets its last entries, and knows it. */
  lose(id: string, count: number): void {
    const { disk } = this.#member(id);
    const recoverTo = disk.entries.at(-1) ?? disk.start;
    const entries = disk.entries.slice(0, -count);
    const commit = Math.min(disk.hardState.commit, disk.start.index + entries.length);
    const { index, term } = recoverTo;
    this.#boot(id, {
      ...disk,
      entries,
      hardState: { ...disk.hardState, commit },
      recoverTo: { index, term },
    });
  }

  compact(id: string, keepEntries: number): void {
    const member = this.#member(id);
    const { raw } = member;
    const { appliedIndex } = raw.status;
    const membership = raw.log.membershipAt(appliedIndex);
    const term = raw.log.termAt(appliedIndex) ?? 0;
    const data = Buffer.from(JSON.stringify(member.items));
    const { snapshot, pieces } = inOnePiece({ index: appliedIndex, term, membership, data });
    const start = raw.compactionPoint(keepEntries);
    const ready = raw.ready(true);
    const own = { pieces, compaction: { snapshot, start } };
    member.disk = applyBatch(member.disk, batchOf(ready, own, raw.snapshotsInUse()));
    raw.compacted(snapshot, start);
    this.#say(raw.saved(ready));
    this.out.push(`${id} keeps a snapshot at ${appliedIndex}, its log begins after ${start.index}`);
  }

  #apply(id: string, member: Member): void {
    const snapshot = member.raw.takeSnapshot();
    if (snapshot) {
      const content = readContent(member.disk, snapshot, 0, snapshot.sizeBytes);
      member.items = JSON.parse(Buffer.from(content?.data ?? []).toString()) as string[];
      member.raw.restored(snapshot);
      this.out.push(`${id} restores a snapshot at ${snapshot.index}`);
    }
    for (const entry of member.raw.takeCommitted()) {
      this.out.push(`${id} applies ${describeEntry(entry)}`);
      if (entry.type === 'normal') member.items.push(Buffer.from(entry.data).toString());
    }
    for (const { context, index } of member.raw.takeReads()) {
      this.out.push(`${id} confirms read ${context} at ${index}`);
    }
  }

  #tellRole(id: string, member: Member): void {
    const { role, term, leaderId } = member.raw.status;
    const line = `${id} is ${role} in term ${term}${leaderId ? `, led by ${leaderId}` : ''}`;
    if (line !== member.lastRole) this.out.push(line);
    member.lastRole = line;
  }

  #say(messages: RaftMessage[]): void {
    for (const message of messages) {
      this.out.push(describeMessage(message));
      this.network.push(message);
    }
  }

  take(filter: Filter): RaftMessage[] {
    const matches = (message: RaftMessage) =>
      (filter.from === undefined || filter.from === message.from) &&
      (filter.to === undefined || filter.to === message.to) &&
      (filter.type === undefined || filter.type === message.type);
    const taken = this.network.filter(matches);
    this.network = this.network.filter((message) => !matches(message));
    return taken;
  }

  deliver(messages: RaftMessage[]): void {
    for (const message of messages) {
      this.input(message.to, (raw) => {
        raw.step(message);
      });
    }
  }

  /** Delivers among these nodes until nobody has anything to say. */
  stabilize(ids: string[]): void {
    const among = ids.length > 0 ? ids : this.#voters;
    for (let round = 0; round < 1000; round++) {
      const next = this.network.find(({ from, to }) => among.includes(from) && among.includes(to));
      if (!next) return;
      this.network.splice(this.network.indexOf(next), 1);
      this.deliver([next]);
    }
    throw new Error('it does not come to rest');
  }

  members(id: string): void {
    const { raw } = this.#member(id);
    const isCommitted = raw.membershipCommitted ? '' : ' (not committed)';
    this.out.push(`${id}: ${describeMembership(raw.membership)}${isCommitted}`);
  }

  log(id: string): void {
    const { log } = this.#member(id).raw;
    this.out.push(`begins after ${log.firstIndex - 1}, committed ${log.committed}`);
    this.out.push(...log.entriesFrom(log.firstIndex, Infinity).map(describeEntry));
  }

  status(id: string): void {
    const { raw } = this.#member(id);
    const { role, term, leaderId, commitIndex, appliedIndex } = raw.status;
    const leader = leaderId ?? 'nobody';
    this.out.push(
      `${id}: ${role} in term ${term}, led by ${leader}, committed ${commitIndex}, applied ${appliedIndex}`,
    );
    if (role !== 'leader') return;
    for (const peer of raw.peers()) {
      const { match, next, state, paused } = peer;
      this.out.push(`  ${peer.id}: ${state} match ${match} next ${next}${paused ? ' paused' : ''}`);
    }
  }

  disk(id: string): void {
    const { hardState, snapshot, entries } = this.#member(id).disk;
    const { term, vote, commit } = hardState;
    this.out.push(
      `term ${term}, vote ${vote ?? 'nobody'}, commit ${commit}, snapshot ${snapshot.index}`,
    );
    this.out.push(...entries.map(describeEntry));
  }

  items(id: string): void {
    this.out.push(this.#member(id).items.join(' '));
  }
}

function describeEntry({ index, term, type, data }: Entry): string {
  if (type === 'config') {
    return `${index}/${term} members ${describeMembership(decodeMembership(data))}`;
  }
  const content = type === 'normal' ? `"${Buffer.from(data).toString()}"` : type;
  return `${index}/${term} ${content}`;
}

function describeSave(ready: Ready): string {
  const { hardState, pieces, snapshot, entries } = ready;
  const parts: string[] = [];
  if (hardState) {
    const { term, vote, commit } = hardState;
    parts.push(`term ${term} vote ${vote ?? 'nobody'} commit ${commit}`);
  }
  for (const { index, offset, data } of pieces) {
    parts.push(`bytes ${offset}-${offset + data.length} of a snapshot at ${index}`);
  }
  if (snapshot) parts.push(`a snapshot at ${snapshot.index}`);
  if (ready.recovered) parts.push('it has recovered');
  if (entries.length > 0) parts.push(`[${entries.map(describeEntry).join(', ')}]`);
  return parts.join(', ');
}

export function describeMessage(message: RaftMessage): string {
  return `${message.from}->${message.to} ${message.type} term ${message.term}${describeBody(message)}`;
}

function describeBody(message: RaftMessage): string {
  switch (message.type) {
    case 'vote':
    case 'preVote':
      return `, log ends ${message.lastIndex}/${message.lastTerm}${message.isTransfer ? ', transfer' : ''}`;
    case 'voteResponse':
    case 'preVoteResponse':
      return message.rejected ? ', no' : ', yes';
    case 'append': {
      const entries = message.entries.map(describeEntry).join(', ');
      const { previousIndex, previousTerm, commit } = message;
      return `, after ${previousIndex}/${previousTerm}, commit ${commit} [${entries}]`;
    }
    case 'appendResponse':
      return message.rejected
        ? `, ${message.isRecovering ? 'recovers and ' : ''}rejects ${message.index}, hint ${message.hintIndex}/${message.hintTerm}`
        : `, has ${message.index}`;
    case 'heartbeat':
      return `, commit ${message.commit}${readOf(message.readContext)}`;
    case 'heartbeatResponse':
      return readOf(message.readContext);
    case 'snapshot':
      return `, at ${message.snapshot.index}/${message.snapshot.term}`;
    case 'snapshotChunk': {
      const { snapshotIndex, snapshotTerm, offset, data, totalBytes } = message;
      return `, at ${snapshotIndex}/${snapshotTerm}, bytes ${offset}-${offset + data.length} of ${totalBytes}`;
    }
    case 'snapshotChunkResponse':
      return `, at ${message.snapshotIndex}/${message.snapshotTerm}, next ${message.nextOffset}`;
    case 'timeoutNow':
      return '';
  }
}

function readOf(context: number): string {
  return context > 0 ? `, read ${context}` : '';
}
