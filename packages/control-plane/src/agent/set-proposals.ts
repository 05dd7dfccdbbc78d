import { StorError, type VolumeId } from '@stor/protocol';
import type { Clock } from '@stor/runtime';
import type { ControlPlanePort } from '../agent-port.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { decideSet } from '../core/controllers/attachment-rules.ts';
import type { Versioned } from '../resources/cluster-state.ts';
import { readVolume } from '../resources/find.ts';
import type { StoredVolume } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { maxConflicts, tooManyConflicts, type VolumeRecords } from './volume-records.ts';

type Proposal = Parameters<ControlPlanePort['proposeSet']>[0];
type Answer = Awaited<ReturnType<ControlPlanePort['proposeSet']>>;
/** What becomes of one proposal: an answer, or the error that it is refused with. */
type Outcome = { answer: Answer } | { error: unknown };

interface Waiting {
  proposal: Proposal;
  settle: (outcome: Outcome) => void;
}

/**
 * Changes of in-sync sets (I4). All sets of a volume lie in one record, and a node that dies takes a
 * member from many of its segments at once: proposals of one volume that come while one is being
 * written are written together after it, instead of one losing against the other.
 */
export class SetProposals {
  readonly #store: ClusterStore;
  readonly #cache: StateCache;
  readonly #records: VolumeRecords;
  readonly #clock: Clock;
  /** by volume, while a write is under way: those that follow it */
  readonly #waiting = new Map<VolumeId, Waiting[]>();

  constructor(options: {
    store: ClusterStore;
    cache: StateCache;
    records: VolumeRecords;
    clock: Clock;
  }) {
    this.#store = options.store;
    this.#cache = options.cache;
    this.#records = options.records;
    this.#clock = options.clock;
  }

  /** See ControlPlanePort.proposeSet. */
  propose(proposal: Proposal): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const settle = (outcome: Outcome): void => {
        if ('answer' in outcome) resolve(outcome.answer);
        else reject(StorError.from(outcome.error));
      };
      const { volumeId } = proposal;
      const waiting = this.#waiting.get(volumeId);
      if (waiting) {
        waiting.push({ proposal, settle });
        return;
      }
      this.#waiting.set(volumeId, []);
      void this.#run(volumeId, [{ proposal, settle }]);
    });
  }

  async #run(volumeId: VolumeId, first: Waiting[]): Promise<void> {
    for (let batch = first; batch.length > 0; batch = this.#takeWaiting(volumeId)) {
      try {
        const outcomes = await this.#commit(
          volumeId,
          batch.map(({ proposal }) => proposal),
        );
        batch.forEach(({ settle }, i) => {
          settle(outcomes[i] ?? { error: tooManyConflicts(volumeId) });
        });
      } catch (error) {
        for (const { settle } of batch) settle({ error });
      }
    }
    this.#waiting.delete(volumeId);
  }

  #takeWaiting(volumeId: VolumeId): Waiting[] {
    const waiting = this.#waiting.get(volumeId) ?? [];
    this.#waiting.set(volumeId, []);
    return waiting;
  }

  /**
   * Clients wait meanwhile, so the first try is on the record as it was last seen here: one round of
   * the quorum instead of two. What that record refuses is looked at again in the store, because it
   * may be old.
   */
  async #commit(volumeId: VolumeId, proposals: Proposal[]): Promise<Outcome[]> {
    const seen = this.#cache.state.volumes.get(volumeId);
    if (seen) {
      const { outcomes, record, isCertain } = this.#decide(seen, proposals);
      if (isCertain && (record === null || (await this.#records.write(seen, record))))
        return outcomes;
    }
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const volume = await readVolume(this.#store, volumeId);
      if (!volume) {
        const reason = 'the volume was deleted';
        return proposals.map(() => ({ answer: { outcome: 'superseded', reason } }));
      }
      const { outcomes, record } = this.#decide(volume, proposals);
      if (record === null || (await this.#records.write(volume, record))) return outcomes;
    }
    throw tooManyConflicts(volumeId);
  }

  /** What this version of the record leads to; `record` null: nothing changes. */
  #decide(
    volume: Versioned<StoredVolume>,
    proposals: Proposal[],
  ): { outcomes: Outcome[]; record: StoredVolume | null; isCertain: boolean } {
    const nowWallMs = this.#clock.wallMs();
    let record = volume.value;
    let isCertain = true;
    const outcomes = proposals.map((proposal): Outcome => {
      try {
        const decision = decideSet(record, { ...proposal, nowWallMs });
        if (decision.type === 'superseded') {
          isCertain = false;
          return { answer: { outcome: 'superseded', reason: decision.reason } };
        }
        if (decision.type === 'change') record = decision.record;
        const { setRevision, isUnconfirmed } = decision;
        const more = isUnconfirmed ? { unconfirmed: true as const } : {};
        return { answer: { outcome: 'committed', setRevision, ...more } };
      } catch (error) {
        // an old record may not know a replica yet
        isCertain = false;
        return { error };
      }
    });
    return { outcomes, record: record === volume.value ? null : record, isCertain };
  }
}
