import assert from 'node:assert/strict';
import { jointVoteResult } from '../src/core/quorum.ts';
import { decodeMembership, isJoint } from '../src/core/membership.ts';
import type { Entry, HardState, Membership, RawNode, StoredState } from '../src/index.ts';

/** One member as the checker sees it. */
export interface Observed {
  id: string;
  raw: RawNode;
  disk: StoredState;
  /** what the disk had before each time it lost some of it, until that is recovered */
  lost: StoredState[];
}

/**
 * What must hold after every step of every run, over all members (Raft paper, figure 3). Each
 * check throws with the name of the property that broke.
 */
export class Checker {
  readonly #leaders = new Map<number, string>();
  /** by index and term: content, and the term before it */
  readonly #entries = new Map<string, string>();
  /** what was committed, by index; [0] is before the log */
  readonly committed: Entry[] = [{ index: 0, term: 0, type: 'empty', data: new Uint8Array() }];
  readonly #commitIndex = new Map<string, number>();
  /** by member, since its last start */
  readonly #checked = new Map<string, WeakSet<Entry>>();
  /** by member: what was in force when it was last looked at */
  readonly #membership = new Map<string, Membership>();
  /** by term and voter: who has its vote, on its disk at some time */
  readonly #votes = new Map<number, Map<string, string>>();
  #committedMembership: Membership | null = null;
  leaderCount = 0;

  /** After anything that `node` did. */
  check(node: Observed, all: Observed[]): void {
    this.#logMatching(node);
    this.#electionSafety(node);
    this.#commits(node, all);
    this.#membership.set(node.id, node.raw.membership);
  }

  restarted(node: Observed): void {
    this.#commitIndex.delete(node.id);
    this.#checked.delete(node.id);
    this.#membership.delete(node.id);
  }

  /** State machine safety: all apply the same entries in the same order, without a gap. */
  applied(id: string, entries: Entry[], after: number): void {
    for (const [i, entry] of entries.entries()) {
      assert.equal(entry.index, after + 1 + i, `${id} applies without a gap`);
      assert.deepEqual(entry, this.committed[entry.index], `state machine safety at ${id}`);
    }
  }

  /** What is on a disk never goes back: term, vote within a term, commit index. */
  saved(id: string, before: StoredState, after: StoredState): void {
    const old = before.hardState;
    const now = after.hardState;
    this.#noteVote(id, now);
    assert.ok(now.term >= old.term, 'the term goes back on disk');
    assert.ok(now.commit >= old.commit, 'the commit index goes back on disk');
    if (now.term === old.term && old.vote !== null) {
      assert.equal(now.vote, old.vote, 'the vote changes within a term on disk');
    }
  }

  #noteVote(id: string, { term, vote }: HardState): void {
    if (vote === null) return;
    const votes = this.#votes.get(term) ?? new Map<string, string>();
    this.#votes.set(term, votes);
    const known = votes.get(id);
    assert.ok(known === undefined || known === vote, `${id} voted twice in term ${term}`);
    votes.set(id, vote);
  }

  /** Only voters count, of both halves of a joint membership; and only votes that are on a disk. */
  #electedByVoters({ raw, id }: Observed, term: number): void {
    const ids = [...(this.#votes.get(term) ?? [])].filter(([, vote]) => vote === id);
    const voters = ids.map(([voter]) => voter);
    // a leader goes by the newest membership in its log, which it may have just changed
    const then = [this.#membership.get(id) ?? raw.membership, raw.membership];
    assert.ok(
      then.some((membership) => isQuorum(membership, voters)),
      `${id} leads term ${term} by the votes of ${voters.join()} only`,
    );
  }

  /** One membership follows another only if their majorities overlap. */
  #membershipFollows(entry: Entry): void {
    if (entry.type !== 'config') return;
    const next = decodeMembership(entry.data);
    const last = this.#committedMembership;
    this.#committedMembership = next;
    if (!last || isJoint(last) || isJoint(next)) return;
    const changed = [...last.voters, ...next.voters].filter(
      (id) => last.voters.includes(id) !== next.voters.includes(id),
    );
    assert.ok(changed.length <= 1, `majorities of two memberships do not overlap: ${entry.index}`);
  }

  #logMatching({ raw, id }: Observed): void {
    const { log } = raw;
    const checked = this.#checked.get(id) ?? new WeakSet();
    this.#checked.set(id, checked);
    let previousTerm = log.termAt(log.firstIndex - 1) ?? -1;
    for (const entry of log.entriesFrom(log.firstIndex, Infinity)) {
      const before = previousTerm;
      previousTerm = entry.term;
      // an entry leaves the log before the one in front of it can change: once is enough
      if (checked.has(entry)) continue;
      checked.add(entry);
      const key = `${entry.index}.${entry.term}`;
      const content = `${entry.type} ${Buffer.from(entry.data).toString()} after ${before}`;
      const known = this.#entries.get(key);
      if (known === undefined) this.#entries.set(key, content);
      else assert.equal(content, known, `log matching at ${id}, entry ${key}`);
    }
  }

  #electionSafety(node: Observed): void {
    const { raw, id } = node;
    const { role, term } = raw.status;
    if (role !== 'leader') return;
    const known = this.#leaders.get(term);
    if (known !== undefined) {
      assert.equal(id, known, `election safety: two leaders in term ${term}`);
      return;
    }
    this.#leaders.set(term, id);
    this.leaderCount++;
    this.#electedByVoters(node, term);
    for (const entry of this.committed.slice(raw.log.firstIndex)) {
      assert.equal(raw.log.termAt(entry.index), entry.term, `leader completeness, term ${term}`);
    }
    assert.ok(raw.log.lastIndex >= this.committed.length - 1, `leader completeness, term ${term}`);
  }

  #commits(node: Observed, all: Observed[]): void {
    const { raw, id } = node;
    const commit = raw.log.committed;
    assert.ok(commit >= (this.#commitIndex.get(id) ?? 0), `the commit index goes back at ${id}`);
    this.#commitIndex.set(id, commit);
    for (let index = this.committed.length; index <= commit; index++) {
      const [entry] = raw.log.entriesFrom(index, 1);
      assert.ok(entry);
      // an acknowledgement was true even if the disk has lost the entry since
      const holders = all
        .filter(({ disk, lost }) => [disk, ...lost].some((each) => holds(each, entry)))
        .map((each) => each.id);
      // it was counted by the members of then; a change of them may have been applied since
      const then = [this.#membership.get(id) ?? raw.membership, raw.membership];
      assert.ok(
        then.some((membership) => isQuorum(membership, holders)),
        `entry ${index} is committed and on the disks of ${holders.join()} only`,
      );
      this.#membershipFollows(entry);
      this.committed.push(entry);
    }
  }
}

function isQuorum(membership: Membership, ids: string[]): boolean {
  return jointVoteResult(membership, new Map(ids.map((id) => [id, true]))) === 'won';
}

function holds(disk: StoredState, entry: Entry): boolean {
  const stored = disk.entries[entry.index - disk.start.index - 1];
  return stored ? stored.term === entry.term : entry.index <= disk.start.index;
}
