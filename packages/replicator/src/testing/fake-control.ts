import {
  StorError,
  defaultPolicy,
  type AttachmentGrant,
  type EventNote,
  type GrantedReplica,
  type SnapshotId,
  type SnapshotPhase,
  type VolumePolicy,
  type VolumeSettings,
} from '@stor/protocol';
import type { Random } from '@stor/runtime';

import type { ReplicatorControl } from '../replicator-ports.ts';
import type { SimScheduler } from './sim-clock.ts';

/** A replica, and the segment that it is of. @default segment 0 */
export type SegmentReplica = GrantedReplica & { segment?: number };

/** What is recorded of one segment's in-sync set. */
interface RecordedSet {
  setRevision: number;
  inSync: string[];
  lastApplied: string;
  /** the change to a set of one is not confirmed: these have all that was acknowledged */
  unconfirmed?: string[] | undefined;
}

/** The control plane of one volume: epochs, the in-sync sets, and answers that get lost. */
export class FakeControl {
  readonly #scheduler: SimScheduler;
  readonly #random: Random;
  epoch = 0;
  /** by segment */
  readonly sets: RecordedSet[];
  /** of the volume, once it has been changed (bytes) */
  sizeBytes: number | undefined;
  holder: string | null = null;
  policy: VolumePolicy = { ...defaultPolicy(3), failureMode: 'alwayson' };
  /** wanted number of replicas */
  replicas: number;
  /** marked to go */
  readonly leaving = new Set<string>();
  /** recorded as failed for good */
  readonly failed = new Set<string>();
  acceptUnflushedLoss = false;
  resourceVersion = 1;
  cleanRelease = false;
  /** proposals fail before they are sent, with this chance */
  unavailable = 0;
  /** ... or their outcome stays unknown (they take effect half the time) */
  unknown = 0;
  /** a set of one that is proposed takes effect, and nobody hears of it */
  loseAnswers = false;
  /** the same for what is confirmed, which does not even arrive */
  loseConfirmations = false;
  /** the volume's snapshots; null: this control plane knows of none */
  snapshots: Map<SnapshotId, SnapshotPhase> | null = null;
  /** sizes that the volume had when they were taken, where it has grown since */
  readonly snapshotSizes = new Map<SnapshotId, number>();
  /** what the data path told of */
  readonly events: EventNote[] = [];
  /** every set there was, as (epoch, revision, members) */
  readonly history: {
    segment: number;
    epoch: number;
    setRevision: number;
    inSync: string[];
  }[] = [];

  /** `inSync` of the first segment, `others` of those that follow it */
  constructor(scheduler: SimScheduler, random: Random, inSync: string[], others: string[][] = []) {
    this.#scheduler = scheduler;
    this.#random = random;
    this.sets = [inSync, ...others].map((set) => ({
      setRevision: 1,
      inSync: set,
      lastApplied: '',
    }));
    this.replicas = inSync.length;
  }

  /** of the first segment */
  get setRevision(): number {
    return this.#set(0).setRevision;
  }
  set setRevision(setRevision: number) {
    this.#set(0).setRevision = setRevision;
  }
  get inSync(): string[] {
    return this.#set(0).inSync;
  }
  set inSync(inSync: string[]) {
    this.#set(0).inSync = inSync;
  }

  /** What the record says now; each call is a newer version. */
  settings(volumeId: string, replicas: SegmentReplica[], epoch = this.epoch): VolumeSettings {
    this.resourceVersion += 1;
    return {
      volumeId,
      epoch,
      resourceVersion: this.resourceVersion,
      ...(this.sizeBytes === undefined ? {} : { sizeBytes: this.sizeBytes }),
      replicas: this.replicas,
      policy: { ...this.policy },
      ...(this.snapshots && {
        snapshots: [...this.snapshots].map(([id, state]) => {
          const sizeBytes = this.snapshotSizes.get(id);
          return { id, state, ...(sizeBytes === undefined ? {} : { sizeBytes }) };
        }),
      }),
      segments: this.sets.map(({ setRevision, inSync, unconfirmed }, index) => ({
        index,
        setRevision,
        inSync: [...inSync],
        ...(unconfirmed ? { unconfirmed: [...unconfirmed] } : {}),
        replicas: replicas
          .filter(({ segment = 0 }) => segment === index)
          .map(({ segment: _segment, ...each }) => ({
            ...each,
            leaving: this.leaving.has(each.id),
            failed: this.failed.has(each.id),
          })),
      })),
    };
  }

  grant(
    nodeId: string,
    volume: { volumeId: string; sizeBytes: number; segmentBytes?: number },
    replicas: SegmentReplica[],
  ): AttachmentGrant {
    this.epoch += 1;
    this.holder = nodeId;
    const previousReleased = this.cleanRelease || this.epoch === 1;
    this.cleanRelease = false;
    return {
      ...this.settings(volume.volumeId, replicas),
      name: volume.volumeId,
      sizeBytes: volume.sizeBytes,
      ...(volume.segmentBytes === undefined ? {} : { segmentBytes: volume.segmentBytes }),
      mode: 'auto',
      previousReleased,
      acceptUnflushedLoss: this.acceptUnflushedLoss,
    };
  }

  /** One more segment, all of whose replicas are empty. */
  addSegment(inSync: string[]): void {
    this.sets.push({ setRevision: 1, inSync, lastApplied: '' });
  }

  /** The holder of this epoch gives it back with nothing in flight. */
  released(epoch: number): void {
    if (epoch !== this.epoch) return;
    this.holder = null;
    this.cleanRelease = true;
  }

  /** As one node reaches it; `reachable` says whether it does right now. */
  portOf(reachable: () => boolean): ReplicatorControl {
    return {
      noteEvent: async (note) => {
        this.events.push(note);
      },
      proposeSet: (proposal) =>
        new Promise((resolve, reject) => {
          const fails = !reachable() || this.#random.next() < this.unavailable;
          const silent = this.#random.next() < this.unknown;
          this.#scheduler.at(1 + this.#random.next() * 20, () => {
            if (fails) {
              reject(new StorError('UNAVAILABLE', 'no quorum'));
              return;
            }
            if (silent && this.#random.next() < 0.5) {
              reject(new StorError('OUTCOME_UNKNOWN', 'no answer'));
              return;
            }
            if (proposal.confirms && this.loseConfirmations) {
              reject(new StorError('OUTCOME_UNKNOWN', 'no answer'));
              return;
            }
            const answer = this.#apply(proposal);
            this.#scheduler.at(this.#random.next() * 5, () => {
              if (silent || (this.loseAnswers && proposal.inSync.length === 1))
                reject(new StorError('OUTCOME_UNKNOWN', 'no answer'));
              else resolve(answer);
            });
          });
        }),
    };
  }

  #apply(
    proposal: Parameters<ReplicatorControl['proposeSet']>[0],
  ): Awaited<ReturnType<ReplicatorControl['proposeSet']>> {
    const key = JSON.stringify(proposal);
    const set = this.#set(proposal.segment);
    if (proposal.epoch !== this.epoch) {
      return { outcome: 'superseded', reason: `epoch ${this.epoch} is in force` };
    }
    if (key === set.lastApplied) return committed(set);
    if (proposal.setRevision !== set.setRevision) {
      return { outcome: 'superseded', reason: `revision ${set.setRevision} is in force` };
    }
    if (proposal.inSync.length === 0) throw new Error('an empty in-sync set was proposed');
    set.lastApplied = key;
    if (proposal.confirms) {
      set.unconfirmed = undefined;
      return committed(set);
    }
    const whole = set.unconfirmed ?? set.inSync;
    const isAlone = proposal.inSync.length === 1 && !whole.every((id) => id === proposal.inSync[0]);
    set.unconfirmed = isAlone ? [...new Set([...whole, ...proposal.inSync])] : undefined;
    set.setRevision = Math.max(set.setRevision, proposal.rememberedRevision ?? 0) + 1;
    set.inSync = [...proposal.inSync];
    const { setRevision, inSync } = set;
    const { segment } = proposal;
    this.history.push({ segment, epoch: this.epoch, setRevision, inSync: [...inSync] });
    return committed(set);
  }

  #set(segment: number): RecordedSet {
    const set = this.sets[segment];
    if (!set) throw new Error(`there is no segment ${segment}`);
    return set;
  }
}

function committed(set: RecordedSet): Awaited<ReturnType<ReplicatorControl['proposeSet']>> {
  const more = set.unconfirmed ? { unconfirmed: true as const } : {};
  return { outcome: 'committed', setRevision: set.setRevision, ...more };
}
