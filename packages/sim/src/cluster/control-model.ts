import { StorError, nodeLeaseMs } from '@stor/protocol';
import type { Random } from '@stor/runtime';

import type { SimNetwork } from '../world/network.ts';
import type { ProcessClock } from '../world/process-clock.ts';
import type { CommittedSet, ControlBackups } from './sim-cluster.ts';

export interface ModelVolume {
  id: string;
  epoch: number;
  setRevision: number;
  inSync: string[];
  /** the change to a set of one is not confirmed: these have all that was acknowledged */
  unconfirmed?: string[] | undefined;
  holder: number;
  cleanRelease: boolean;
}

interface Proposal {
  volumeId: string;
  epoch: number;
  setRevision: number;
  rememberedRevision?: number;
  inSync: string[];
  confirms?: boolean;
}

type Answer =
  | { outcome: 'committed'; setRevision: number; unconfirmed?: true }
  | { outcome: 'superseded'; reason: string };

export const controlHost = 'control';

/** A control plane that is never down, behind a network that loses its calls and its answers. */
export class ControlModel {
  readonly volumes = new Map<string, ModelVolume>();
  onCommitted: (set: CommittedSet) => void = () => {};
  /** when each node was last heard of (ms) */
  readonly #heardMs = new Map<number, number>();
  readonly #network: SimNetwork;
  readonly #random: Random;
  readonly #last = new Map<string, string>();
  #backup: Map<string, ModelVolume> | null = null;

  constructor(network: SimNetwork, random: Random) {
    this.#network = network;
    this.#random = random;
  }

  volume(id: string): ModelVolume {
    const volume = this.volumes.get(id);
    if (!volume) throw new Error(`no volume ${id}`);
    return volume;
  }

  /** A node renews its lease. */
  heard(node: number): void {
    this.#heardMs.set(node, this.#network.scheduler.nowMs);
  }

  leaseIsOver(node: number): boolean {
    const heardMs = this.#heardMs.get(node) ?? -Infinity;
    return this.#network.scheduler.nowMs - heardMs > nodeLeaseMs;
  }

  grant(id: string, node: number): { epoch: number; previousReleased: boolean } {
    const volume = this.volume(id);
    const previousReleased = volume.cleanRelease || volume.epoch === 0;
    volume.epoch += 1;
    volume.holder = node;
    volume.cleanRelease = false;
    return { epoch: volume.epoch, previousReleased };
  }

  released(id: string, epoch: number, clean: boolean): void {
    const volume = this.volume(id);
    if (volume.epoch !== epoch) return;
    volume.holder = -1;
    volume.cleanRelease = clean;
  }

  readonly backups: ControlBackups = {
    take: () => {
      this.#backup = new Map([...this.volumes].map(([id, v]) => [id, structuredClone(v)]));
      return Promise.resolve(true);
    },
    isUsable: () => this.#backup !== null,
    putBack: () => {
      for (const [id, volume] of this.volumes) {
        const old = this.#backup?.get(id);
        if (!old) continue;
        volume.inSync = [...old.inSync];
        // whoever was granted since may have confirmed it
        volume.unconfirmed = undefined;
        volume.setRevision = old.setRevision;
        volume.holder = -1;
        volume.cleanRelease = false;
        // above any that may have been granted
        volume.epoch += 10;
        this.#last.delete(id);
      }
      return Promise.resolve();
    },
  };

  /** A proposal as it travels from a node and back; either way may be cut. */
  propose(host: string, clock: ProcessClock, proposal: Proposal): Promise<Answer> {
    const network = this.#network;
    const cut = (from: string, to: string): boolean => network.isBlocked(from, to);
    return new Promise((resolve, reject) => {
      const say = (then: () => void): void => {
        clock.run(then);
      };
      network.scheduler.at(1 + this.#random.next() * 20, () => {
        if (clock.dead) return;
        if (cut(host, controlHost)) {
          say(() => reject(new StorError('UNAVAILABLE', 'no quorum')));
          return;
        }
        const answer = this.#apply(proposal);
        network.scheduler.at(this.#random.next() * 5, () => {
          const isLost = cut(controlHost, host) || this.#random.next() < 0.03;
          if (isLost) say(() => reject(new StorError('OUTCOME_UNKNOWN', 'no answer')));
          else say(() => resolve(answer));
        });
      });
    });
  }

  #apply(proposal: Proposal): Answer {
    const volume = this.volume(proposal.volumeId);
    const key = JSON.stringify(proposal);
    if (proposal.epoch !== volume.epoch) {
      return { outcome: 'superseded', reason: `epoch ${volume.epoch} is in force` };
    }
    if (key === this.#last.get(volume.id)) {
      return committed(volume);
    }
    if (proposal.setRevision < volume.setRevision) {
      return { outcome: 'superseded', reason: `revision ${volume.setRevision} is in force` };
    }
    if (proposal.inSync.length === 0) throw new Error('an empty in-sync set was proposed');
    this.#last.set(volume.id, key);
    if (proposal.confirms) {
      volume.unconfirmed = undefined;
      this.onCommitted(setOf(volume));
      return committed(volume);
    }
    const whole = volume.unconfirmed ?? volume.inSync;
    const isAlone = proposal.inSync.length === 1 && !whole.every((id) => id === proposal.inSync[0]);
    volume.unconfirmed = isAlone ? [...new Set([...whole, ...proposal.inSync])] : undefined;
    volume.setRevision = Math.max(proposal.setRevision, proposal.rememberedRevision ?? 0) + 1;
    volume.inSync = [...proposal.inSync];
    this.onCommitted(setOf(volume));
    return committed(volume);
  }
}

function committed({ setRevision, unconfirmed }: ModelVolume): Answer {
  return { outcome: 'committed', setRevision, ...(unconfirmed ? { unconfirmed: true } : {}) };
}

export function setOf({ id, epoch, setRevision, inSync, unconfirmed }: ModelVolume): CommittedSet {
  return { volume: id, epoch, setRevision, inSync: [...inSync], whole: unconfirmed ?? [...inSync] };
}
