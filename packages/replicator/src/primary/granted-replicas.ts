import type { GrantedReplica, StorError, VolumeSettings } from '@stor/protocol';

import type { Member } from './member.ts';

/** The replicas of one segment as the record has them. */
export class GrantedReplicas {
  readonly #byId: ReadonlyMap<string, GrantedReplica>;
  readonly #inSync: readonly string[];

  constructor(settings: VolumeSettings | null, index: number) {
    const segment = settings?.segments.find((each) => each.index === index);
    this.#byId = new Map((segment?.replicas ?? []).map((replica) => [replica.id, replica]));
    this.#inSync = segment?.inSync ?? [];
  }

  get(replicaId: string): GrantedReplica | undefined {
    return this.#byId.get(replicaId);
  }

  /** Recorded as failed for good. */
  get failed(): string[] {
    return [...this.#byId.values()].flatMap(({ id, failed }) => (failed ? [id] : []));
  }

  get leaving(): string[] {
    return [...this.#byId.values()].flatMap(({ id, leaving }) => (leaving ? [id] : []));
  }

  /** Those of the recorded set first: of two on one node the one that can be read is the local one. */
  get inOrder(): GrantedReplica[] {
    const rank = ({ id }: GrantedReplica): number => (this.#inSync.includes(id) ? 0 : 1);
    return [...this.#byId.values()].sort((a, b) => rank(a) - rank(b));
  }

  /** It was added after the other. */
  isNewer(replicaId: string, other: string): boolean {
    const order = [...this.#byId.keys()];
    return order.indexOf(replicaId) > order.indexOf(other);
  }

  /** A replica for people: where it is, and why it does not answer (`error`, the last one). */
  describe(replicaId: string, member: Member | undefined, error: StorError | undefined): string {
    const granted = this.#byId.get(replicaId);
    const where = granted
      ? `${replicaId} on ${granted.nodeId}`
      : `${replicaId}, which has no record`;
    if (granted?.failed || member?.answer?.failure) return `${where} (failed)`;
    if (!member || member.isOpen) return where;
    const isGone = error?.code === 'NOT_FOUND';
    return `${where} (${isGone ? 'the node has no such replica: its disk is not open there, or it is gone' : 'does not answer'})`;
  }
}
