import { StorError } from '@stor/protocol';
import type { NodeId, VolumeId, VolumeSettings } from '@stor/protocol';
import type { Logger } from '@stor/runtime';
import type { AgentPort } from '../agent-port.ts';
import { settingsOf } from '../core/volume/grant.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import { nodesPrefix, volumesPrefix } from '../resources/keys.ts';
import type { StoredVolume } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { volumesOn } from '../resources/state-index.ts';

interface Told {
  /** as it was looked at last: one that is the same object says nothing new */
  volume: Versioned<StoredVolume>;
  peers: string;
  content: string;
}

/**
 * Tells the primaries of this process what their records say now: policy, replicas that came, go or
 * have gone. Level-triggered: `push` at each change tells what is new, `repeat` now and then tells
 * everything again, because a primary that is only just starting may have missed it.
 */
export class SettingsPush {
  readonly #cache: StateCache;
  readonly #agent: AgentPort;
  readonly #logger: Logger;
  readonly #nodeId: NodeId;
  readonly #agentInstance: string;
  /** what was told last, without what the primary itself changes */
  readonly #told = new Map<VolumeId, Told>();
  /** where the nodes listen, as of the last look at all of them */
  #peers = '';
  readonly #work = new Set<Promise<void>>();

  constructor(options: {
    cache: StateCache;
    agent: AgentPort;
    logger: Logger;
    nodeId: NodeId;
    agentInstance: string;
  }) {
    this.#cache = options.cache;
    this.#agent = options.agent;
    this.#logger = options.logger;
    this.#nodeId = options.nodeId;
    this.#agentInstance = options.agentInstance;
  }

  /** `keys`: what has changed since the last call; null: that is not known. */
  push(keys: readonly string[] | null = null): void {
    const { state } = this.#cache;
    if (keys === null || keys.some((key) => key.startsWith(nodesPrefix))) {
      this.#pushAll(state);
      return;
    }
    for (const key of keys) {
      if (!key.startsWith(volumesPrefix)) continue;
      const id = key.slice(volumesPrefix.length);
      const volume = state.volumes.get(id);
      // attached here no more
      if (!volume || !this.#look(volume, state)) this.#told.delete(id);
    }
  }

  #pushAll(state: ClusterState): void {
    this.#peers = JSON.stringify(
      [...state.nodes.values()].map(({ value }) => value.addresses.peers),
    );
    const attached = new Set<VolumeId>();
    for (const volume of volumesOn(state.volumes, this.#nodeId)) {
      if (this.#look(volume, state)) attached.add(volume.value.metadata.id);
    }
    for (const id of this.#told.keys()) if (!attached.has(id)) this.#told.delete(id);
  }

  /** Tells the primary what is new; false: the volume is not attached to this process. */
  #look(volume: Versioned<StoredVolume>, state: ClusterState): boolean {
    const { id } = volume.value.metadata;
    const { attachment } = volume.value.status;
    if (attachment?.nodeId !== this.#nodeId) return false;
    if (attachment.agentInstance !== this.#agentInstance) return false;
    const known = this.#told.get(id);
    const peers = this.#peers;
    if (known?.volume === volume && known.peers === peers) return true;
    const settings = settingsOf(volume, attachment.epoch, state);
    const { resourceVersion: _version, segments, ...rest } = settings;
    const content = JSON.stringify([rest, segments.map(({ replicas }) => replicas)]);
    this.#told.set(id, { volume, peers, content });
    if (known?.content !== content) this.#tell(settings, content);
    return true;
  }

  /** Tells everything once more. */
  repeat(): void {
    this.#told.clear();
    this.push();
  }

  /** Waits for what is under way. */
  async close(): Promise<void> {
    await Promise.allSettled(this.#work);
  }

  #tell(settings: VolumeSettings, content: string): void {
    const { volumeId } = settings;
    const work = this.#agent
      .updateVolume(settings)
      .catch((error: unknown) => {
        const { message } = StorError.from(error);
        this.#logger.warn({ volumeId, error: message }, 'the primary was not told, will retry');
        if (this.#told.get(volumeId)?.content === content) this.#told.delete(volumeId);
      })
      .then(() => {
        this.#work.delete(work);
      });
    this.#work.add(work);
  }
}
