import { loadServices, RpcEndpoint, StorError } from '@stor/protocol';
import type { Attachment, DiskId, NodeId, VolumeId } from '@stor/protocol';
import type { LiveVolume } from '../agent-port.ts';
import { nodeName } from '../resources/cluster-state.ts';
import type { StateCache } from '../resources/state-cache.ts';

/** What one node may ask of another, or of itself. */
export interface NodeCalls {
  releaseAttachment(
    request: { volumeId: VolumeId; epoch: number; ifIdle: boolean },
    signal?: AbortSignal,
  ): Promise<'released' | 'busy' | 'gone'>;
  /** `onlyIfWanted`: only while nobody holds the volume and its record wants it on that node. */
  attachHere(request: {
    volumeId: VolumeId;
    mode: Attachment['mode'];
    onlyIfWanted: boolean;
  }): Promise<{ epoch: number }>;
  liveVolumes(): Promise<LiveVolume[]>;
  addDisk(request: { path: string; tag: string }): Promise<{ diskId: DiskId }>;
}

export const clusterIdKey = 'stor-cluster-id';
export const nodeIdKey = 'stor-node-id';

/** Bounds of calls between nodes (ms): to connect, to drain a volume, to activate one, to glance. */
const connectTimeoutMs = 800;
const releaseTimeoutMs = 15_000;
const attachTimeoutMs = 30_000;
const addDiskTimeoutMs = 30_000;
const glanceTimeoutMs = 500;

/** The other nodes, by node id; this node is called without the network. */
export class AgentPeers {
  readonly #clusterId: string;
  readonly #selfId: NodeId;
  readonly #cache: StateCache;
  readonly #self: () => NodeCalls;
  readonly #endpoints = new Map<NodeId, RpcEndpoint>();
  readonly #closing = new AbortController();

  constructor(options: {
    clusterId: string;
    selfId: NodeId;
    cache: StateCache;
    self: () => NodeCalls;
  }) {
    this.#clusterId = options.clusterId;
    this.#selfId = options.selfId;
    this.#cache = options.cache;
    this.#self = options.self;
  }

  /** Calls fail with what the node answers, or UNAVAILABLE / OUTCOME_UNKNOWN. */
  at(nodeId: NodeId): NodeCalls {
    if (nodeId === this.#selfId) return this.#self();
    return {
      releaseAttachment: async (request, signal) => {
        const answer = (await this.#call(nodeId, {
          method: 'ReleaseAttachment',
          request,
          timeoutMs: releaseTimeoutMs,
          signal,
        })) as { result: string };
        const { result } = answer;
        if (result === 'released' || result === 'gone') return result;
        return 'busy';
      },
      attachHere: (request) =>
        this.#call(nodeId, {
          method: 'AttachHere',
          request,
          timeoutMs: attachTimeoutMs,
        }) as Promise<{ epoch: number }>,
      liveVolumes: async () => {
        const answer = (await this.#call(nodeId, {
          method: 'LiveVolumes',
          request: {},
          timeoutMs: glanceTimeoutMs,
        })) as { volumes: LiveVolume[] };
        return answer.volumes;
      },
      addDisk: (request) =>
        this.#call(nodeId, { method: 'AddDisk', request, timeoutMs: addDiskTimeoutMs }) as Promise<{
          diskId: DiskId;
        }>,
    };
  }

  /** Gives up what is being asked. */
  close(): void {
    this.#closing.abort();
    for (const endpoint of this.#endpoints.values()) endpoint.close();
    this.#endpoints.clear();
  }

  async #call(
    nodeId: NodeId,
    call: { method: string; request: object; timeoutMs: number; signal?: AbortSignal | undefined },
  ): Promise<unknown> {
    const { state } = this.#cache;
    const name = nodeName(state, nodeId);
    const address = state.nodes.get(nodeId)?.value.addresses.api;
    if (!address)
      throw unreachable('UNAVAILABLE', nodeId, `the address of node ${name} is unknown`);
    const endpoint = await this.#endpoint(nodeId, address);
    const outcome = await endpoint.call({
      ...call,
      signal: call.signal
        ? AbortSignal.any([call.signal, this.#closing.signal])
        : this.#closing.signal,
      connectTimeoutMs: Math.min(connectTimeoutMs, call.timeoutMs),
      metadata: { [clusterIdKey]: this.#clusterId, [nodeIdKey]: nodeId },
    });
    switch (outcome.type) {
      case 'answered':
        return outcome.response;
      case 'refused':
        throw outcome.error;
      case 'not-sent':
      case 'aborted':
        throw unreachable(
          'UNAVAILABLE',
          nodeId,
          `node ${name} cannot be reached at ${address}: check that its agent runs`,
        );
      case 'lost':
      case 'timeout':
        throw unreachable(
          'OUTCOME_UNKNOWN',
          nodeId,
          `node ${name} at ${address} was asked and did not answer: it may or may not have done it`,
        );
    }
  }

  async #endpoint(nodeId: NodeId, address: string): Promise<RpcEndpoint> {
    const { agent } = await loadServices();
    const known = this.#endpoints.get(nodeId);
    if (known?.address === address) return known;
    known?.close();
    const endpoint = new RpcEndpoint(address, agent);
    this.#endpoints.set(nodeId, endpoint);
    return endpoint;
  }
}

function unreachable(
  code: 'UNAVAILABLE' | 'OUTCOME_UNKNOWN',
  nodeId: NodeId,
  message: string,
): StorError {
  return new StorError(code, message, { details: { unreachable: nodeId } });
}
