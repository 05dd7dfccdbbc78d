import { knownQos, tenantLabel } from '@stor/protocol';
import type { NodeId, VolumeId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { LiveThrottle } from '../agent-port.ts';
import { liveStatus } from '../api/live-status.ts';
import { demandOf } from '../core/qos/tenant-demand.ts';
import type { NodeDemand } from '../core/qos/tenant-demand.ts';
import { usersOfTenant, volumesOf } from '../core/qos/tenant-rules.ts';
import type { TenantDemands } from '../core/qos/tenant-rules.ts';
import type { Versioned } from '../resources/cluster-state.ts';
import type { StoredVolume } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import type { AgentPeers } from './agent-peers.ts';

/** How often the nodes of a tenant are asked what its volumes need (ms). */
const askMs = 2_000;
/** What a node said is not believed for longer (ms): its volumes may have come to need anything. */
const staleMs = 10_000;

interface Seen {
  epoch: number;
  atMs: number;
  throttle: LiveThrottle;
}

interface Known {
  atMs: number;
  demand: NodeDemand;
}

/**
 * What the volumes of tenants need on each node, as the leader hears it. Only tenants that are used on
 * several nodes are asked about; for any other there is nothing to divide.
 */
export class TenantWatch {
  readonly #options: { cache: StateCache; peers: AgentPeers; clock: Clock; logger: Logger };
  readonly #known = new Map<string, Map<NodeId, Known>>();
  #seen = new Map<VolumeId, Seen>();
  #askedMs = -Infinity;
  #asking: Promise<void> | null = null;

  constructor(options: { cache: StateCache; peers: AgentPeers; clock: Clock; logger: Logger }) {
    this.#options = options;
  }

  /** What is known just now. */
  get demands(): TenantDemands {
    const nowMs = this.#options.clock.monotonicMs();
    const demands = new Map<string, Map<NodeId, NodeDemand>>();
    for (const [tenant, nodes] of this.#known) {
      const fresh = [...nodes].filter(([, { atMs }]) => nowMs - atMs < staleMs);
      demands.set(tenant, new Map(fresh.map(([id, { demand }]) => [id, demand])));
    }
    return demands;
  }

  /** Asks again when it is time; `heard` when the answers are in. */
  look(heard: () => void): void {
    const { clock, cache, logger } = this.#options;
    const nowMs = clock.monotonicMs();
    if (this.#asking || nowMs - this.#askedMs < askMs) return;
    const { state } = cache;
    const divided = [...state.tenants.keys()].filter((name) => usersOfTenant(state, name).size > 1);
    for (const name of this.#known.keys()) if (!divided.includes(name)) this.#known.delete(name);
    if (divided.length === 0) {
      this.#seen.clear();
      return;
    }
    this.#askedMs = nowMs;
    this.#asking = this.#ask(divided)
      .then(heard)
      .catch((error: unknown) => {
        logger.debug({ error: String(error) }, 'tenants could not be asked about');
      })
      .finally(() => {
        this.#asking = null;
      });
  }

  async close(): Promise<void> {
    await this.#asking;
  }

  async #ask(tenants: readonly string[]): Promise<void> {
    const { state } = this.#options.cache;
    const volumes = tenants.flatMap((name) =>
      volumesOf(state, name).flatMap(({ metadata }) => state.volumes.get(metadata.id) ?? []),
    );
    const live = await liveStatus(volumes, state, this.#options);
    const atMs = this.#options.clock.monotonicMs();
    const now = new Map<VolumeId, Seen>();
    for (const [id, { epoch, throttle }] of live)
      if (throttle) now.set(id, { epoch, atMs, throttle });
    for (const name of tenants) {
      const qos = knownQos(state.tenants.get(name)?.value.qos);
      const ofTenant = volumes.filter(({ value }) => value.metadata.labels[tenantLabel] === name);
      const nodes = this.#known.get(name) ?? new Map<NodeId, Known>();
      this.#known.set(name, nodes);
      for (const [nodeId, held] of byHolder(ofTenant)) {
        const pairs = held.map((id) => ({ before: this.#seen.get(id), now: now.get(id) }));
        const changes = pairs.flatMap(({ before, now: after }) =>
          before && after && before.epoch === after.epoch
            ? [{ before: before.throttle, now: after.throttle, passedMs: atMs - before.atMs }]
            : [],
        );
        // one that does not answer, or of which nothing was known before, keeps what was known
        if (changes.length < held.length) continue;
        const passedMs = Math.max(...changes.map((each) => each.passedMs));
        nodes.set(nodeId, { atMs, demand: demandOf(qos, changes, passedMs) });
      }
    }
    this.#seen = now;
  }
}

function byHolder(volumes: readonly Versioned<StoredVolume>[]): Map<NodeId, VolumeId[]> {
  const held = new Map<NodeId, VolumeId[]>();
  for (const { value } of volumes) {
    const nodeId = value.status.attachment?.nodeId;
    if (nodeId === undefined) continue;
    held.set(nodeId, [...(held.get(nodeId) ?? []), value.metadata.id]);
  }
  return held;
}
