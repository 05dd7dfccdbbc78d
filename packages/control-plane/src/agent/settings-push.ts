import { StorError } from '@stor/protocol';
import type { DiskId, NodeId, VolumeId, VolumeSettings } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { AgentPort } from '../agent-port.ts';
import { BoundedTurns } from './bounded-turns.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { qosClassesOf } from '../core/qos/qos-classes.ts';
import { settingsOf } from '../core/volume/grant.ts';
import { peerLanes } from '../core/volume/lane-addresses.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import {
  disksPrefix,
  nodesPrefix,
  policiesPrefix,
  tenantSharesPrefix,
  tenantsPrefix,
  volumesPrefix,
} from '../resources/keys.ts';
import type { StoredVolume } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { every } from '../resources/every.ts';
import { volumesOn } from '../resources/state-index.ts';
import { ShareConfirmation } from './tenant-shares.ts';

/** Primaries that are told at once, in the order of the changes: a policy may have thousands of volumes. */
const maxTellings = 32;

/** How often it is looked whether the node still holds its lease (ms). */
const leaseLookMs = 500;

const concernsAll = (key: string): boolean =>
  [nodesPrefix, policiesPrefix, tenantsPrefix, tenantSharesPrefix].some((prefix) =>
    key.startsWith(prefix),
  );

interface Told {
  /** as it was looked at last: one that is the same object says nothing new */
  volume: Versioned<StoredVolume>;
  /** see `#others` */
  others: string;
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
  /** what all settings depend on besides: where nodes listen, and policies, as of the last look at all */
  #others = '';
  readonly #turns = new BoundedTurns(maxTellings);
  /** revision of the QoS classes that lanes were told last */
  #classesTold: number | null = null;
  /** the node holds its lease, as far as it knows */
  #isLeased = true;
  /** disks that are not lane 0's */
  #lanes = new Map<DiskId, number>();
  readonly #work = new Set<Promise<void>>();
  #failures = 0;
  readonly #shares: ShareConfirmation;
  readonly #cancelLook: () => void;

  constructor(options: {
    store: ClusterStore;
    cache: StateCache;
    agent: AgentPort;
    clock: Clock;
    logger: Logger;
    nodeId: NodeId;
    agentInstance: string;
    /** why this node holds no lease; null: it does */
    trouble: () => string | null;
  }) {
    this.#cache = options.cache;
    this.#agent = options.agent;
    this.#logger = options.logger;
    this.#nodeId = options.nodeId;
    this.#agentInstance = options.agentInstance;
    const tell = (): Promise<boolean> => {
      this.repeat();
      return this.#allTold();
    };
    this.#shares = new ShareConfirmation({ ...options, tell });
    this.#cancelLook = every(options.clock, leaseLookMs, () => {
      this.#lease(options.trouble() === null);
      this.#shares.look();
    });
  }

  /** `keys`: what has changed since the last call; null: that is not known. */
  push(keys: readonly string[] | null = null): void {
    const { state } = this.#cache;
    this.#pushClasses(state);
    if (keys === null || keys.some((key) => concernsAll(key) || this.#movesDisk(key, state))) {
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

  /** A disk is another lane's now. */
  #movesDisk(key: string, state: ClusterState): boolean {
    if (!key.startsWith(disksPrefix)) return false;
    const diskId = key.slice(disksPrefix.length);
    return (state.disks.get(diskId)?.value.lane ?? 0) !== (this.#lanes.get(diskId) ?? 0);
  }

  #pushAll(state: ClusterState): void {
    const peers = peerLanes(state);
    this.#lanes = new Map(peers.flatMap(({ lanes }) => Object.entries(lanes)));
    this.#others = JSON.stringify([
      peers,
      ...[state.policies, state.tenants, state.tenantShares].map((table) =>
        [...table.values()].map(({ modRevision }) => modRevision),
      ),
      this.#isLeased,
    ]);
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
    const others = this.#others;
    if (known?.volume === volume && known.others === others) return true;
    const settings = settingsOf(volume, attachment.epoch, state, this.#isLeased);
    const { resourceVersion: _version, segments, ...rest } = settings;
    const content = JSON.stringify([rest, segments.map(({ replicas }) => replicas)]);
    this.#told.set(id, { volume, others, content });
    if (known?.content !== content) this.#tell(settings, content);
    return true;
  }

  /** What primaries share with other nodes is theirs only while this node holds its lease. */
  #lease(isHeld: boolean): void {
    if (isHeld === this.#isLeased) return;
    this.#isLeased = isHeld;
    this.#pushAll(this.#cache.state);
  }

  /** Resolves once all that was to be told up to now is: false when some primary could not be told. */
  async #allTold(): Promise<boolean> {
    const failures = this.#failures;
    await Promise.allSettled(this.#work);
    return this.#isLeased && failures === this.#failures;
  }

  #pushClasses(state: ClusterState): void {
    const revision = state.qosClasses?.modRevision ?? 0;
    if (revision === this.#classesTold) return;
    this.#classesTold = revision;
    const work = this.#agent
      .updateQosClasses(qosClassesOf(state))
      .catch((error: unknown) => {
        const { message } = StorError.from(error);
        this.#logger.warn({ error: message }, 'lanes were not told of QoS classes, will retry');
        if (this.#classesTold === revision) this.#classesTold = null;
      })
      .then(() => {
        this.#work.delete(work);
      });
    this.#work.add(work);
  }

  /** Tells everything once more. */
  repeat(): void {
    this.#told.clear();
    this.#classesTold = null;
    this.push();
  }

  /** Waits for what is under way. */
  async close(): Promise<void> {
    this.#cancelLook();
    await this.#shares.close();
    await Promise.allSettled(this.#work);
  }

  #tell(settings: VolumeSettings, content: string): void {
    const { volumeId } = settings;
    const work = this.#turns
      .run('', () => this.#agent.updateVolume(settings))
      .catch((error: unknown) => {
        const { message } = StorError.from(error);
        this.#failures += 1;
        this.#logger.warn({ volumeId, error: message }, 'the primary was not told, will retry');
        if (this.#told.get(volumeId)?.content === content) this.#told.delete(volumeId);
      })
      .then(() => {
        this.#work.delete(work);
      });
    this.#work.add(work);
  }
}
