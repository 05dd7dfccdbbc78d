import {
  StorError,
  defaultPolicy,
  makeId,
  publishedExportName,
  type CallOptions,
  type Node,
  type NodeId,
  type PublicationView,
  type Volume,
} from '@stor/protocol';
import { SeededRandom } from '@stor/runtime/testing';
import type { FileSystem } from '../host-volumes.ts';
import type { VolumePort } from '../volume-port.ts';

/** What lies on a volume, whichever host looks. */
export interface VolumeContent {
  fileSystem: FileSystem | null;
  /** what the file system thinks that its device has (bytes); 0 without one */
  fileSystemBytes: number;
  /** another signature: `swap`, `crypto_LUKS`; '' for none */
  foreign: string;
  /** something was written, without a signature */
  hasData: boolean;
}

type VolumeCall = keyof VolumePort;

const startMs = Date.UTC(2026, 0, 2, 3, 4, 5);

/** Volumes of a cluster in memory, with the rules of publications (ADR 19). */
export class MemoryVolumes implements VolumePort {
  /** what was asked, in order: `publish db n1`, `unpublish db n1 force` */
  readonly calls: string[] = [];
  readonly #random = new SeededRandom(7);
  readonly #nodes = new Map<NodeId, Node>();
  readonly #volumes = new Map<string, Volume>();
  readonly #contents = new Map<string, VolumeContent>();
  readonly #failures = new Map<VolumeCall, StorError[]>();
  readonly #connected = new Set<string>();
  #version = 1;

  addNode(name: string): Node {
    const number = this.#nodes.size + 1;
    const address = (port: number): string => `127.0.0.1:${17_100 + 10 * number + port}`;
    const node: Node = {
      metadata: this.#metadata(makeId('n', this.#random.bytes(8)), name, {}),
      spec: {},
      status: {
        state: 'up',
        addresses: {
          api: address(0),
          http: address(1),
          peers: [address(2)],
          nbd: [address(3)],
          nbdUnix: [`/run/stor/${name}.sock`],
        },
        agentInstance: 'a1',
        bootId: 'b1',
        version: '0.1.0',
        raftRole: 'voter',
        computeOnly: false,
      },
    };
    this.#nodes.set(node.metadata.id, node);
    return node;
  }

  nodeIds(): NodeId[] {
    return [...this.#nodes.keys()];
  }

  setNode(name: string, state: 'up' | 'down'): void {
    this.#node(name).status.state = state;
  }

  add(
    name: string,
    options: { sizeBytes?: number; shared?: boolean; labels?: Record<string, string> } = {},
  ): Volume {
    const { sizeBytes = 2 ** 30, shared = false, labels = {} } = options;
    const volume: Volume = {
      metadata: this.#metadata(makeId('v', this.#random.bytes(8)), name, labels),
      spec: { sizeBytes, replicas: 3, policy: { ...defaultPolicy(3), shared } },
      status: {
        health: 'healthy',
        message: '',
        serving: '',
        primary: null,
        epoch: 0,
        setRevision: 1,
        replicas: [],
        allocatedBytes: 0,
        snapshots: 0,
        origin: null,
        space: null,
        nbdUri: '',
        publications: [],
      },
    };
    const { id } = volume.metadata;
    this.#volumes.set(id, volume);
    this.#contents.set(id, { fileSystem: null, fileSystemBytes: 0, foreign: '', hasData: false });
    return volume;
  }

  remove(name: string): void {
    const { id } = this.find(name).metadata;
    this.#volumes.delete(id);
    this.#contents.delete(id);
  }

  resize(name: string, sizeBytes: number): void {
    this.find(name).spec.sizeBytes = sizeBytes;
  }

  /** Of a volume by name or id; NOT_FOUND. */
  find(name: string): Volume {
    for (const volume of this.#volumes.values()) {
      if (volume.metadata.name === name || volume.metadata.id === name) return volume;
    }
    throw new StorError('NOT_FOUND', `volume ${JSON.stringify(name)} does not exist`);
  }

  has(name: string): boolean {
    return [...this.#volumes.values()].some(
      ({ metadata }) => metadata.name === name || metadata.id === name,
    );
  }

  content(name: string): VolumeContent {
    const content = this.#contents.get(this.find(name).metadata.id);
    if (content) return content;
    throw new StorError('INTERNAL', `volume ${name} has no content`);
  }

  publications(name: string): readonly PublicationView[] {
    return this.find(name).status.publications;
  }

  /** The next such call fails. */
  failNext(call: VolumeCall, error: StorError): void {
    this.#failures.set(call, [...(this.#failures.get(call) ?? []), error]);
  }

  /** A device process of that publication is connected, or is not any more. */
  setConnected(publication: string, isConnected: boolean): void {
    if (isConnected) this.#connected.add(publication);
    else this.#connected.delete(publication);
  }

  async publishVolume(
    request: Parameters<VolumePort['publishVolume']>[0],
    options?: CallOptions,
  ): Promise<Volume> {
    const { name, node: nodeName, readOnly = false, owner = '', keepDead = false } = request;
    this.#begin('publishVolume', options);
    const volume = this.find(name);
    const node = this.#node(nodeName);
    this.calls.push(`publish ${volume.metadata.name} ${node.metadata.name}`);
    const { publications } = volume.status;
    const own = publications.find(({ nodeId }) => nodeId === node.metadata.id);
    if (own) {
      if (own.readOnly === readOnly) return structuredClone(volume);
      throw new StorError(
        'ALREADY_EXISTS',
        `volume ${name} is published to node ${own.node} the other way: unpublish it first`,
        { details: { holder: own.node } },
      );
    }
    const staying = publications.filter(
      ({ nodeId }) => keepDead || this.#nodes.get(nodeId)?.status.state === 'up',
    );
    const [holder] = staying;
    if (holder && !volume.spec.policy.shared) {
      throw new StorError(
        'ATTACHED_ELSEWHERE',
        `volume ${name} is used as a device on node ${holder.node} since ${new Date(holder.sinceMs).toISOString()}`,
        { details: { holder: holder.node, since: new Date(holder.sinceMs).toISOString() } },
      );
    }
    const id = makeId('u', this.#random.bytes(8));
    const exportName = publishedExportName(id, volume.metadata.name);
    const nodeId = node.metadata.id;
    volume.status.publications = [
      ...staying,
      { id, nodeId, readOnly, owner, sinceMs: startMs, node: node.metadata.name, exportName },
    ];
    return structuredClone(volume);
  }

  async unpublishVolume(
    request: Parameters<VolumePort['unpublishVolume']>[0],
    options?: CallOptions,
  ): Promise<Volume> {
    const { name, node, publication = '', force = false } = request;
    this.#begin('unpublishVolume', options);
    const volume = this.find(name);
    this.calls.push(`unpublish ${volume.metadata.name} ${node}${force ? ' force' : ''}`);
    const nodeId = node === '' ? null : this.#node(node).metadata.id;
    const ending = volume.status.publications.filter(
      (each) =>
        (nodeId === null || each.nodeId === nodeId) &&
        (publication === '' || each.id === publication),
    );
    if (!force && ending.some(({ id }) => this.#connected.has(id))) {
      throw new StorError('FAILED_PRECONDITION', `volume ${name} is connected`);
    }
    volume.status.publications = volume.status.publications.filter(
      (each) => !ending.includes(each),
    );
    return structuredClone(volume);
  }

  async getVolume(request: { name: string }, options?: CallOptions): Promise<Volume> {
    this.#begin('getVolume', options);
    return structuredClone(this.find(request.name));
  }

  async listVolumes(
    _request: Record<string, never>,
    options?: CallOptions,
  ): Promise<{ volumes: Volume[] }> {
    this.#begin('listVolumes', options);
    return { volumes: structuredClone([...this.#volumes.values()]) };
  }

  async listNodes(
    _request: Record<string, never>,
    options?: CallOptions,
  ): Promise<{ nodes: Node[] }> {
    this.#begin('listNodes', options);
    return { nodes: structuredClone([...this.#nodes.values()]) };
  }

  #begin(call: VolumeCall, options: CallOptions | undefined): void {
    if (options?.signal?.aborted) throw new StorError('ABORTED', `${call} was aborted`);
    const [error, ...rest] = this.#failures.get(call) ?? [];
    this.#failures.set(call, rest);
    if (error) throw error;
  }

  #node(name: string): Node {
    for (const node of this.#nodes.values()) {
      if (node.metadata.name === name || node.metadata.id === name) return node;
    }
    throw new StorError('NOT_FOUND', `node ${JSON.stringify(name)} does not exist`);
  }

  #metadata(id: string, name: string, labels: Record<string, string>): Volume['metadata'] {
    return { id, name, labels, createdAtMs: startMs, resourceVersion: this.#version++ };
  }
}
