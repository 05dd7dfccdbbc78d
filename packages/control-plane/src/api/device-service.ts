import { StorError } from '@stor/protocol';
import type { Device, DeviceApi, HostFinding, NodeId, StorApi } from '@stor/protocol';
import type { AgentPeers } from '../agent/agent-peers.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { publicationsOf } from '../core/volume/publication-rules.ts';
import type { HostAnswer, HostOrder } from '../host-order.ts';
import { nodeName, type ClusterState } from '../resources/cluster-state.ts';
import { findVolume, readHosts } from '../resources/find.ts';
import { findNode } from './find-node.ts';
import type { CallContext, UnaryMethod } from './serve-unary.ts';

type Request<M extends keyof StorApi> = Parameters<StorApi[M]>[0];

interface Host {
  id: NodeId;
  name: string;
}

/** The calls of the API that concern devices of hosts: each is carried out by the agent of that host. */
export class DeviceService {
  readonly #store: ClusterStore;
  readonly #peers: AgentPeers;
  readonly #nodeId: NodeId;

  constructor(options: { store: ClusterStore; peers: AgentPeers; nodeId: NodeId }) {
    this.#store = options.store;
    this.#peers = options.peers;
    this.#nodeId = options.nodeId;
  }

  async attach(request: Request<'attachDevice'>, signal: AbortSignal): Promise<Device> {
    const { name, readOnly = false } = request;
    const host = await this.#host(request.node);
    return this.#one(host, { type: 'attach', volume: name, readOnly }, signal);
  }

  async detach(request: Request<'detachDevice'>, signal: AbortSignal): Promise<void> {
    const { name, force = false } = request;
    const host = await this.#holder(request.node, name);
    await this.#order(host, { type: 'detach', volume: name, force }, signal);
  }

  async mount(request: Request<'mountVolume'>, signal: AbortSignal): Promise<Device> {
    const { name, target, fileSystem = '', readOnly = false } = request;
    const { options = [], formatOptions = [] } = request;
    if (target === '')
      throw new StorError('INVALID_ARGUMENT', 'the target of the mount is missing');
    const host = await this.#host(request.node);
    const order = { volume: name, target, fileSystem, readOnly, options, formatOptions };
    return this.#one(host, { type: 'mount', ...order }, signal);
  }

  async unmount(request: Request<'unmountVolume'>, signal: AbortSignal): Promise<void> {
    const { name, target } = request;
    if (name === '' && target === '') {
      throw new StorError('INVALID_ARGUMENT', 'give the volume or the target that is unmounted');
    }
    const host = await this.#holder(request.node, name);
    await this.#order(host, { type: 'unmount', volume: name, target }, signal);
  }

  async grow(request: Request<'growDevice'>, signal: AbortSignal): Promise<Device> {
    const host = await this.#holder(request.node, request.name);
    return this.#one(host, { type: 'grow', volume: request.name }, signal);
  }

  async list(node: string, signal: AbortSignal): Promise<Device[]> {
    const host = await this.#host(node);
    const { devices } = await this.#order(host, { type: 'list' }, signal);
    return devices.map((device) => ({ nodeId: host.id, node: host.name, ...device }));
  }

  async check(node: string, signal: AbortSignal): Promise<{ node: string; checks: HostFinding[] }> {
    const host = await this.#host(node);
    const { checks } = await this.#order(host, { type: 'check' }, signal);
    return { node: host.name, checks };
  }

  /** The answering node unless another one is named. NOT_FOUND. */
  async #host(node: string): Promise<Host> {
    const state = await readHosts(this.#store);
    if (node === '') return { id: this.#nodeId, name: nodeName(state, this.#nodeId) };
    const { id, name } = findNode(state, node).value;
    return { id, name };
  }

  /** The named one, or the one that the volume is published to, or the answering one. */
  async #holder(node: string, volume: string): Promise<Host> {
    const state: ClusterState = await readHosts(this.#store);
    if (node !== '' || volume === '') return this.#host(node);
    const publications = publicationsOf((await findVolume(this.#store, volume)).value);
    const [only, ...others] = publications;
    if (others.length > 0) {
      const hosts = publications.map(({ nodeId }) => nodeName(state, nodeId)).join(', ');
      throw new StorError(
        'FAILED_PRECONDITION',
        `volume ${volume} is a device of several hosts: say which, --node with one of ${hosts}`,
      );
    }
    const id = only?.nodeId ?? this.#nodeId;
    return { id, name: nodeName(state, id) };
  }

  #order(
    { id }: Host,
    order: Partial<HostOrder> & Pick<HostOrder, 'type'>,
    signal: AbortSignal,
  ): Promise<HostAnswer> {
    const none = { volume: '', target: '', fileSystem: '', options: [], formatOptions: [] };
    const whole = { ...none, readOnly: false, force: false, ...order };
    return this.#peers.at(id).orderHost(whole, signal);
  }

  async #one(
    host: Host,
    order: Partial<HostOrder> & Pick<HostOrder, 'type'>,
    signal: AbortSignal,
  ): Promise<Device> {
    const { devices } = await this.#order(host, order, signal);
    const [device] = devices;
    if (device) return { nodeId: host.id, node: host.name, ...device };
    throw new StorError('INTERNAL', `node ${host.name} has shown no device`);
  }
}

/** As methods of the API; on the wire what is absent is empty. */
export function deviceMethods(devices: DeviceService): Record<keyof DeviceApi, UnaryMethod> {
  return {
    attachDevice: (request: Request<'attachDevice'>, { signal }: CallContext) =>
      devices.attach(request, signal),
    detachDevice: async (request: Request<'detachDevice'>, { signal }: CallContext) => {
      await devices.detach(request, signal);
      return {};
    },
    mountVolume: (request: Request<'mountVolume'>, { signal }: CallContext) =>
      devices.mount(request, signal),
    unmountVolume: async (request: Request<'unmountVolume'>, { signal }: CallContext) => {
      await devices.unmount(request, signal);
      return {};
    },
    growDevice: (request: Request<'growDevice'>, { signal }: CallContext) =>
      devices.grow(request, signal),
    listDevices: async ({ node }: Request<'listDevices'>, { signal }: CallContext) => ({
      devices: await devices.list(node, signal),
    }),
    checkHost: ({ node }: Request<'checkHost'>, { signal }: CallContext) =>
      devices.check(node, signal),
  };
}
