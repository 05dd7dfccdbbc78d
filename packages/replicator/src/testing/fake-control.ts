import {
  StorError,
  defaultPolicy,
  type AttachmentGrant,
  type VolumePolicy,
  type VolumeSettings,
} from '@stor/protocol';
import type { Random } from '@stor/runtime';

import type { ReplicatorControl } from '../replicator-ports.ts';
import type { SimScheduler } from './sim-clock.ts';

/** The control plane of one volume: epochs, the in-sync set, and answers that get lost. */
export class FakeControl {
  readonly #scheduler: SimScheduler;
  readonly #random: Random;
  epoch = 0;
  setRevision = 1;
  inSync: string[];
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
  /** every set there was, as (epoch, revision, members) */
  readonly history: { epoch: number; setRevision: number; inSync: string[] }[] = [];
  #lastApplied = '';

  constructor(scheduler: SimScheduler, random: Random, inSync: string[]) {
    this.#scheduler = scheduler;
    this.#random = random;
    this.inSync = inSync;
    this.replicas = inSync.length;
  }

  /** What the record says now; each call is a newer version. */
  settings(
    volumeId: string,
    replicas: VolumeSettings['segments'][0]['replicas'],
    epoch = this.epoch,
  ): VolumeSettings {
    this.resourceVersion += 1;
    return {
      volumeId,
      epoch,
      resourceVersion: this.resourceVersion,
      replicas: this.replicas,
      policy: { ...this.policy },
      segments: [
        {
          index: 0,
          setRevision: this.setRevision,
          inSync: [...this.inSync],
          replicas: replicas.map((each) => ({
            ...each,
            leaving: this.leaving.has(each.id),
            failed: this.failed.has(each.id),
          })),
        },
      ],
    };
  }

  grant(
    nodeId: string,
    volume: { volumeId: string; sizeBytes: number },
    replicas: AttachmentGrant['segments'][0]['replicas'],
  ): AttachmentGrant {
    this.epoch += 1;
    this.holder = nodeId;
    const previousReleased = this.cleanRelease || this.epoch === 1;
    this.cleanRelease = false;
    return {
      ...this.settings(volume.volumeId, replicas),
      name: volume.volumeId,
      sizeBytes: volume.sizeBytes,
      mode: 'auto',
      previousReleased,
      acceptUnflushedLoss: this.acceptUnflushedLoss,
    };
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
            const answer = this.#apply(proposal);
            this.#scheduler.at(this.#random.next() * 5, () => {
              if (silent) reject(new StorError('OUTCOME_UNKNOWN', 'no answer'));
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
    if (proposal.epoch !== this.epoch) {
      return { outcome: 'superseded', reason: `epoch ${this.epoch} is in force` };
    }
    if (key === this.#lastApplied) return { outcome: 'committed', setRevision: this.setRevision };
    if (proposal.setRevision !== this.setRevision) {
      return { outcome: 'superseded', reason: `revision ${this.setRevision} is in force` };
    }
    if (proposal.inSync.length === 0) throw new Error('an empty in-sync set was proposed');
    this.#lastApplied = key;
    this.setRevision = Math.max(this.setRevision, proposal.rememberedRevision ?? 0) + 1;
    this.inSync = [...proposal.inSync];
    const { epoch, setRevision, inSync } = this;
    this.history.push({ epoch, setRevision, inSync: [...inSync] });
    return { outcome: 'committed', setRevision: this.setRevision };
  }
}
