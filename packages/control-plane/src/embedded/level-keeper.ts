import type { Logger } from '@stor/runtime';
import type { Membership } from 'raft-ts';
import type { ClusterStoreMachine } from '../cluster-store-machine.ts';
import { kvLevel } from '../core/kv/kv-limits.ts';

export interface LevelKeeperParts {
  id: string;
  machine: ClusterStoreMachine;
  isLeader: () => boolean;
  members: () => Pick<Membership, 'voters' | 'outgoing' | 'learners'>;
  /** has the level raised; rejects when that is not known to have happened */
  propose: (level: number) => Promise<unknown>;
  logger: Logger;
}

/**
 * Raises the level of the replicated state as soon as every member knows it. Each says with its calls what
 * it knows; one that was not heard, or is of an earlier version and says nothing, keeps the level down, as
 * under a higher one it would have to stop.
 */
export class LevelKeeper {
  readonly #parts: LevelKeeperParts;
  readonly #known = new Map<string, number>();
  #isProposing = false;

  constructor(parts: LevelKeeperParts) {
    this.#parts = parts;
  }

  /** With any call or stream of a member. */
  heard(id: string, level: number): void {
    this.#known.set(id, level);
    this.look();
  }

  /** Cheap: to be called whenever something may have changed. */
  look(): void {
    const { id: self, machine, isLeader, members, propose, logger } = this.#parts;
    if (this.#isProposing || machine.state.level >= kvLevel || !isLeader()) return;
    const isKnown = (id: string): boolean => (this.#known.get(id) ?? 1) >= kvLevel;
    const { voters, outgoing, learners } = members();
    const all = [...voters, ...outgoing, ...learners];
    if (!all.every((id) => id === self || isKnown(id))) return;
    this.#isProposing = true;
    propose(kvLevel)
      .then(
        () => {
          logger.info({ level: kvLevel }, 'the cluster store has a new level');
        },
        (error: unknown) => {
          logger.debug({ error }, 'the level of the cluster store was not raised: later again');
        },
      )
      .finally(() => {
        this.#isProposing = false;
      });
  }
}
