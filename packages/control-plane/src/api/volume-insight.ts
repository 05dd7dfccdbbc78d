import { hasCode, StorError } from '@stor/protocol';
import type { NodeId, Rebuild, VolumeExplanation } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { AgentPeers } from '../agent/agent-peers.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { explainVolume } from '../core/volume/explain-volume.ts';
import { rebuildsOf } from '../core/volume/list-rebuilds.ts';
import type { VolumeSight } from '../core/volume/volume-sight.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import { readState } from '../resources/find.ts';
import type { StoredVolume } from '../resources/records.ts';
import { liveStatus } from './live-status.ts';
import { noQuorum } from './read-soon.ts';

/** What explains a volume must answer without a quorum too, and soon (ms). */
const quorumCheckMs = 1_000;

/** Answers why volumes are as they are, also while the cluster store cannot be asked. */
export class VolumeInsight {
  readonly #store: ClusterStore;
  readonly #peers: AgentPeers;
  readonly #nodeId: NodeId;
  readonly #clock: Clock;
  readonly #logger: Logger;

  constructor(options: {
    store: ClusterStore;
    peers: AgentPeers;
    nodeId: NodeId;
    clock: Clock;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#peers = options.peers;
    this.#nodeId = options.nodeId;
    this.#clock = options.clock;
    this.#logger = options.logger;
  }

  /** See StorApi.explainVolume. */
  async explain(name: string): Promise<VolumeExplanation> {
    const [sight] = await this.#look(name);
    if (!sight) throw new StorError('INTERNAL', 'nothing was seen');
    return explainVolume(sight);
  }

  /**
   * See StorApi.listRebuilds; `name` '': of all volumes. UNAVAILABLE without a quorum: what is known
   * then may be old, and a list does not say so.
   */
  async rebuilds(name: string): Promise<Rebuild[]> {
    const sights = await this.#look(name);
    if (sights.some(({ isCurrent }) => !isCurrent)) throw noQuorum();
    return sights.flatMap(rebuildsOf);
  }

  async #look(name: string): Promise<VolumeSight[]> {
    const { state, isCurrent } = await this.#state();
    const volumes = name === '' ? [...state.volumes.values()] : [findIn(state, name)];
    volumes.sort((a, b) => (a.value.metadata.name < b.value.metadata.name ? -1 : 1));
    const live = await liveStatus(volumes, state, { peers: this.#peers, logger: this.#logger });
    return volumes.map((volume) => ({
      volume,
      state,
      live: live.get(volume.value.metadata.id) ?? null,
      nodeId: this.#nodeId,
      isCurrent,
      nowWallMs: this.#clock.wallMs(),
      timeText: (wallMs) => new Date(wallMs).toISOString().replace(/\.\d+Z$/, 'Z'),
    }));
  }

  /** As of now; without a quorum as this member of the store knows it. */
  async #state(): Promise<{ state: ClusterState; isCurrent: boolean }> {
    try {
      return {
        state: await readState(this.#store, { timeoutMs: quorumCheckMs }),
        isCurrent: true,
      };
    } catch (error) {
      if (!hasCode(error, 'UNAVAILABLE', 'TIMEOUT')) throw error;
      return { state: await readState(this.#store, { local: true }), isCurrent: false };
    }
  }
}

function findIn(state: ClusterState, nameOrId: string): Versioned<StoredVolume> {
  const id = state.names.get(nameOrId)?.value ?? nameOrId;
  const volume = state.volumes.get(id);
  if (volume) return volume;
  const name = JSON.stringify(nameOrId.slice(0, 128));
  throw new StorError('NOT_FOUND', `there is no volume ${name}: see "storctl volume ls"`);
}
