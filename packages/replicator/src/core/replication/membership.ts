/** What the shell must do next; at most one step of each kind is under way. */
export type MembershipStep =
  | { type: 'propose'; setRevision: number; rememberedRevision: number; inSync: string[] }
  | { type: 'record'; setRevision: number; inSync: string[] }
  | { type: 'confirm'; setRevision: number; inSync: string[] };

/**
 * The in-sync set of one segment as its primary knows it (PacificA, invariant I4).
 *
 * A change is proposed to the control plane, then recorded by the members of the new set, then, if the
 * control plane asks for that, confirmed to it; and only then acknowledgements need the new set alone.
 * Until that they need the union of old and new, so each of these has all that was acknowledged.
 * The set never becomes empty: when all members are away, none is proposed out, and I/O is held.
 */
export class Membership {
  #committed: string[];
  #setRevision: number;
  /** The new revision must be above it, too. */
  readonly #rememberedRevision: number;
  /** The set that acknowledgements needed before the last commit, until the new one is recorded. */
  #previous: string[] = [];
  #proposed: string[] | null = null;
  #recording: Set<string> | null = null;
  /** the next primary takes it that nothing was acknowledged under this set alone */
  #unconfirmed = false;
  /** it is being told that something will be */
  #confirming = false;
  /** it was, and nobody of the set was left to acknowledge anything */
  #confirmedInVain = false;
  #stepGiven = false;
  #mustPropose: boolean;
  #mustRecord = true;
  /** cannot be reached, or failed: they go as soon as that is agreed on */
  readonly #away = new Set<string>();
  /** marked by the control plane: they go when enough others are in sync */
  #leaving: ReadonlySet<string> = new Set();
  #replicas = 1;
  #nodeOf: (id: string) => string = (id) => id;
  readonly #joining = new Set<string>();
  readonly #candidates = new Set<string>();

  /**
   * `setRevision`: what the control plane has. `rememberedRevision`: the highest that a replica
   * remembers; when it is higher, the control plane went back in time, and does not have this set, or
   * one of a history that is over. `isRecorded` false: it has another set at this revision.
   */
  constructor(
    committed: readonly string[],
    setRevision: number,
    rememberedRevision = setRevision,
    isRecorded = true,
  ) {
    this.#committed = [...committed];
    this.#setRevision = setRevision;
    this.#rememberedRevision = rememberedRevision;
    this.#mustPropose = rememberedRevision > setRevision || !isRecorded;
  }

  get committed(): readonly string[] {
    return this.#committed;
  }
  get setRevision(): number {
    return this.#setRevision;
  }
  get proposed(): readonly string[] | null {
    return this.#proposed;
  }

  /** Nothing is under way or wanted, and no member is away. */
  get stable(): boolean {
    return (
      !this.#proposed &&
      !this.#recording &&
      !this.#unconfirmed &&
      !this.#mustPropose &&
      !this.#mustRecord &&
      this.#away.size === 0
    );
  }

  /** A member is away, or nobody keeps the set yet: new writes wait until that is decided. */
  get holding(): boolean {
    return this.#away.size > 0 || this.#mustPropose || this.#mustRecord || this.suspended;
  }

  /** Every member is away: nothing may be proposed, I/O is held until one returns. */
  get suspended(): boolean {
    // asked for every write: no closure
    for (const id of this.#committed) if (!this.#away.has(id)) return false;
    return true;
  }

  /** Members that are not away. */
  get inSync(): readonly string[] {
    return this.#committed.filter((id) => !this.#away.has(id));
  }

  /**
   * The control plane wants replicas on `replicas` nodes and these of them gone. A member among them
   * stays a member as before until those that stay lie on so many nodes, or one of them on its own node:
   * that one has taken its place. Then it is proposed out like any (I4).
   */
  setLeaving(
    leaving: Iterable<string>,
    replicas: number,
    nodeOf: (id: string) => string = (id) => id,
  ): void {
    this.#leaving = new Set(leaving);
    this.#replicas = Math.max(1, replicas);
    this.#nodeOf = nodeOf;
  }

  isAway(id: string): boolean {
    return this.#away.has(id);
  }
  isCommitted(id: string): boolean {
    return this.#committed.includes(id);
  }

  /** Who must have a write before it is acknowledged. */
  required(): string[] {
    const all = new Set([...this.#committed, ...this.#previous, ...this.#joining]);
    for (const id of this.#proposed ?? []) all.add(id);
    return [...all];
  }

  /** A member or newcomer cannot be reached, failed, or must go. */
  lost(id: string): void {
    this.#joining.delete(id);
    this.#candidates.delete(id);
    this.#recording?.delete(id);
    const counted =
      this.#committed.includes(id) ||
      this.#previous.includes(id) ||
      (this.#proposed?.includes(id) ?? false);
    if (counted) this.#away.add(id);
  }

  /**
   * A member that was away is back with its memory. True when it is a member again: only while it could
   * not be dropped (all were away) and no set without it may have been committed; or one was, and
   * nothing has been acknowledged without it. The caller sends it every write that it has not
   * acknowledged.
   */
  readmit(id: string): boolean {
    if (!this.#away.has(id) || !this.suspended) return false;
    if (this.#proposed || this.#recording) return false;
    if (!this.#committed.includes(id)) {
      if (!this.#previous.includes(id)) return false;
      this.#takeBack();
    }
    this.#away.delete(id);
    return true;
  }

  /**
   * Nobody of the committed set answers, and acknowledgements still needed the set before it: so that one
   * stands, in fact. The control plane must be told.
   */
  #takeBack(): void {
    this.#committed = [...new Set([...this.#committed, ...this.#previous])];
    this.#previous = [];
    this.#unconfirmed = false;
    this.#confirming = false;
    this.#confirmedInVain = false;
    this.#mustPropose = true;
    this.#mustRecord = true;
  }

  /**
   * The next primary may take it that something was acknowledged under this set alone, and this one knows
   * better: only it can go back to the set before.
   */
  get isKnownHereOnly(): boolean {
    return this.#confirming || this.#confirmedInVain;
  }

  /** From now on `id` is given every write and must acknowledge it. */
  join(id: string): void {
    this.#joining.add(id);
  }

  /** All that the newcomer was given is durable there: it may be proposed. */
  joined(id: string): void {
    if (this.#joining.has(id)) this.#candidates.add(id);
  }

  /** The next thing to do, or null; the same step is not given twice. */
  next(): MembershipStep | null {
    if (this.#stepGiven) return null;
    if (this.#mustRecord && !this.#mustPropose && !this.#proposed && !this.#wanted()) {
      if (this.suspended) return null;
      this.#mustRecord = false;
      return this.#startRecording();
    }
    if (this.#recording || this.#proposed || this.#confirming) return null;
    if (this.#unconfirmed && !this.#mustRecord && !this.suspended) {
      this.#confirming = true;
      return { type: 'confirm', setRevision: this.#setRevision, inSync: [...this.#committed] };
    }
    const wanted = this.#wanted() ?? (this.#mustPropose ? this.#desired() : null);
    if (!wanted || wanted.length === 0) return null;
    this.#proposed = wanted;
    this.#stepGiven = true;
    return {
      type: 'propose',
      setRevision: this.#setRevision,
      rememberedRevision: this.#rememberedRevision,
      inSync: [...wanted],
    };
  }

  /** The control plane has the proposed set; `unconfirmed`: it wants to be told when that counts alone. */
  proposalCommitted(setRevision: number, unconfirmed = false): void {
    if (!this.#proposed) return;
    this.#previous = [...new Set([...this.#previous, ...this.#committed])];
    this.#committed = this.#proposed;
    this.#proposed = null;
    this.#setRevision = setRevision;
    this.#stepGiven = false;
    this.#mustPropose = false;
    this.#mustRecord = true;
    this.#unconfirmed = unconfirmed;
    for (const id of this.#committed) {
      this.#joining.delete(id);
      this.#candidates.delete(id);
    }
    // those that were away stay so until the set is recorded: they are needed until then, and lack
    // what was under way when they were lost, even if they answer again
    for (const id of this.#away) if (!this.#isNeeded(id)) this.#away.delete(id);
  }

  /** Nothing of the proposal was ever sent and it is not what is wanted now: forget it. */
  withdraw(): boolean {
    if (!this.#proposed) return false;
    const desired = this.#desired();
    if (desired.length === 0) {
      // all are away; only a set that nobody is left of is better not proposed
      if (this.#proposed.some((id) => !this.#away.has(id))) return false;
    } else if (sameMembers(desired, this.#proposed)) return false;
    this.#proposed = null;
    this.#stepGiven = false;
    for (const id of this.#away) if (!this.#isNeeded(id)) this.#away.delete(id);
    return true;
  }

  /** A member keeps the set view durably. */
  recorded(id: string): void {
    this.#recording?.delete(id);
    this.#finishRecording();
  }

  /** The control plane knows that the set of this revision counts alone. */
  confirmed(setRevision: number): void {
    if (!this.isConfirming(setRevision)) return;
    this.#confirming = false;
    this.#unconfirmed = false;
    if (!this.suspended) {
      this.#forgetPrevious();
      return;
    }
    this.#confirmedInVain = true;
    this.#mustRecord = true;
  }

  /** It is still to be told. */
  isConfirming(setRevision: number): boolean {
    return this.#confirming && this.#setRevision === setRevision;
  }

  /** Call after `lost`: a lost member can no longer record. */
  settleRecording(): void {
    this.#finishRecording();
  }

  /** The committed set or the one before it has it. */
  #isNeeded(id: string): boolean {
    return this.#committed.includes(id) || this.#previous.includes(id);
  }

  #startRecording(): MembershipStep {
    this.#recording = new Set(this.#committed.filter((id) => !this.#away.has(id)));
    return { type: 'record', setRevision: this.#setRevision, inSync: [...this.#committed] };
  }

  #finishRecording(): void {
    if (!this.#recording || this.#recording.size > 0) return;
    // with nobody left to keep it, the view is recorded again when a member is back
    if (this.suspended) this.#mustRecord = true;
    else if (!this.#unconfirmed) this.#forgetPrevious();
    this.#recording = null;
  }

  /** Acknowledgements need the committed set alone. */
  #forgetPrevious(): void {
    this.#previous = [];
    this.#confirmedInVain = false;
    for (const id of this.#away) if (!this.#committed.includes(id)) this.#away.delete(id);
  }

  #desired(): string[] {
    const kept = this.#committed.filter((id) => !this.#away.has(id));
    if (kept.length === 0) return [];
    const added = [...this.#candidates].filter((id) => !kept.includes(id));
    // newcomers count once they are committed, not before; two on one node count as one
    const staying = kept.filter((id) => !this.#leaving.has(id));
    const nodes = new Set(staying.map(this.#nodeOf));
    const isReleased = (id: string): boolean =>
      this.#leaving.has(id) && (nodes.size >= this.#replicas || nodes.has(this.#nodeOf(id)));
    return [...kept.filter((id) => !isReleased(id)), ...added];
  }

  /** The set to propose, or null when the committed one is right or nobody is left. */
  #wanted(): string[] | null {
    const desired = this.#desired();
    return desired.length === 0 || sameMembers(desired, this.#committed) ? null : desired;
  }
}

function sameMembers(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((id) => b.includes(id));
}
