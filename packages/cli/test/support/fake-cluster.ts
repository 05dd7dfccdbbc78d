import {
  StorError,
  type ClusterStatus,
  type Disk,
  type ErrorCode,
  type Node,
  type StorApi,
  type Volume,
} from '@stor/protocol';

export const startMs = Date.UTC(2026, 0, 2, 3, 4, 5);
const hex = (kind: string, n: number) => `${kind}-${n.toString(16).padStart(16, '0')}`;

function makeNode(n: number): Node {
  return {
    metadata: {
      id: hex('n', n),
      name: `n${n}`,
      labels: {},
      createdAtMs: startMs,
      resourceVersion: n,
    },
    spec: {},
    status: {
      state: 'up',
      addresses: {
        api: `127.0.0.1:17${n}10`,
        http: `127.0.0.1:17${n}11`,
        peers: [`127.0.0.1:17${n}12`],
        nbd: [`127.0.0.1:17${n}13`],
        nbdUnix: [`/run/stor/n${n}/nbd-0.sock`],
      },
      agentInstance: 'a1',
      bootId: 'b1',
      version: '0.1.0',
      raftRole: n === 1 ? 'leader' : 'follower',
    },
  };
}

function makeDisk(n: number): Disk {
  return {
    metadata: {
      id: hex('d', n),
      name: `n${n}-d1`,
      labels: {},
      createdAtMs: startMs,
      resourceVersion: n,
    },
    spec: { nodeId: hex('n', n), path: `/srv/n${n}/d1`, tag: 'ssd' },
    status: {
      state: 'online',
      message: '',
      capacityBytes: 100 * 2 ** 30,
      usedBytes: 1.5 * 2 ** 30,
      freeBytes: 98.5 * 2 ** 30,
    },
  };
}

/** The API from memory, with as much behaviour as the command line can see. */
export class FakeCluster {
  nodes = [1, 2, 3].map(makeNode);
  disks = [1, 2, 3].map(makeDisk);
  volumes: Volume[] = [];
  calls: { method: string; request: unknown }[] = [];
  opened = 0;
  closed = 0;
  endpoints: string[] = [];
  timeoutMs = 0;
  /** the next call of this method fails with it */
  failures = new Map<keyof StorApi, StorError>();
  /** calls of these methods wait until their signal aborts */
  hanging = new Set<keyof StorApi>();
  status: Partial<ClusterStatus> = {};

  fail(method: keyof StorApi, code: ErrorCode, message: string, details = {}): void {
    this.failures.set(method, new StorError(code, message, { details }));
  }

  /** As `openApiClient`. */
  open = (options: { endpoints: string[]; timeoutMs: number }) => {
    this.opened += 1;
    this.endpoints = options.endpoints;
    this.timeoutMs = options.timeoutMs;
    return { ...this.api(), close: () => void (this.closed += 1) };
  };

  api(): StorApi {
    const call =
      <Request, Response>(method: keyof StorApi, answer: (request: Request) => Response) =>
      async (request: Request, options?: { signal?: AbortSignal }): Promise<Response> => {
        this.calls.push({ method, request });
        const failure = this.failures.get(method);
        if (failure) throw failure;
        if (this.hanging.has(method)) {
          await new Promise((_resolve, reject) => {
            const abort = () => reject(new StorError('ABORTED', 'the call was aborted'));
            if (options?.signal?.aborted === true) abort();
            options?.signal?.addEventListener('abort', abort);
          });
        }
        return structuredClone(answer(request));
      };
    return {
      getClusterStatus: call('getClusterStatus', () => this.clusterStatus()),
      listNodes: call('listNodes', () => ({ nodes: this.nodes })),
      getNode: call('getNode', ({ name }) => this.node(name)),
      labelNode: call('labelNode', ({ name, set, remove }) => {
        const node = this.node(name);
        Object.assign(node.metadata.labels, set);
        for (const key of remove) Reflect.deleteProperty(node.metadata.labels, key);
        return node;
      }),
      listDisks: call('listDisks', () => ({ disks: this.disks })),
      addDisk: call('addDisk', ({ node, path, tag }) => {
        const disk = makeDisk(9);
        disk.metadata.name = `${node}-d2`;
        disk.spec = { nodeId: this.node(node).metadata.id, path, tag };
        this.disks.push(disk);
        return disk;
      }),
      createVolume: call('createVolume', (request) => this.create(request)),
      listVolumes: call('listVolumes', () => ({ volumes: this.volumes })),
      getVolume: call('getVolume', ({ name }) => this.volume(name)),
      deleteVolume: call('deleteVolume', ({ name }) => {
        const volume = this.volume(name);
        this.volumes = this.volumes.filter((other) => other !== volume);
        return {};
      }),
      attachVolume: call('attachVolume', ({ name, node }) => {
        const volume = this.volume(name);
        const holder = this.node(node === '' ? 'n1' : node);
        volume.status.epoch += 1;
        volume.status.primary = {
          nodeId: holder.metadata.id,
          node: holder.metadata.name,
          mode: 'manual',
          sinceMs: startMs + 1000,
        };
        volume.status.nbdUri = `nbd://${holder.status.addresses.nbd[0]}/${volume.metadata.name}`;
        return volume;
      }),
      detachVolume: call('detachVolume', ({ name }) => {
        const volume = this.volume(name);
        volume.status.primary = null;
        return volume;
      }),
    };
  }

  volume(name: string): Volume {
    const found = this.volumes.find(
      ({ metadata }) => metadata.name === name || metadata.id === name,
    );
    if (found) return found;
    throw new StorError('NOT_FOUND', `volume "${name}" does not exist`);
  }

  private node(name: string): Node {
    const found = this.nodes.find(({ metadata }) => metadata.name === name || metadata.id === name);
    if (found) return found;
    throw new StorError('NOT_FOUND', `node "${name}" does not exist`);
  }

  private create(request: {
    name: string;
    sizeBytes: number;
    replicas: number;
    labels: Record<string, string>;
  }): Volume {
    if (this.volumes.some((volume) => volume.metadata.name === request.name)) {
      throw new StorError('ALREADY_EXISTS', `volume "${request.name}" exists already`);
    }
    const replicas = request.replicas || 3;
    const volume: Volume = {
      metadata: {
        id: hex('v', this.volumes.length + 1),
        name: request.name,
        labels: request.labels,
        createdAtMs: startMs,
        resourceVersion: 7,
      },
      spec: { sizeBytes: Math.ceil(request.sizeBytes / 4096) * 4096, replicas },
      status: {
        health: 'healthy',
        message: '',
        primary: null,
        epoch: 0,
        setRevision: 1,
        replicas: this.nodes.slice(0, replicas).map((node, index) => ({
          id: hex('r', index + 1),
          nodeId: node.metadata.id,
          node: node.metadata.name,
          diskId: hex('d', index + 1),
          state: 'in-sync',
          bytesRemaining: 0,
        })),
        allocatedBytes: 256 * 1024,
        nbdUri: `nbd://127.0.0.1:17113/${request.name}`,
      },
    };
    this.volumes.push(volume);
    return volume;
  }

  private clusterStatus(): ClusterStatus {
    const count = (health: string) =>
      this.volumes.filter((volume) => volume.status.health === health).length;
    return {
      clusterId: hex('c', 1),
      name: 'checkout',
      version: '0.1.0',
      leader: { nodeId: hex('n', 1), node: 'n1' },
      term: 4,
      quorum: true,
      nodes: { total: 3, up: this.nodes.filter((node) => node.status.state === 'up').length },
      disks: { total: 3, online: 3, capacityBytes: 300 * 2 ** 30, usedBytes: 4.5 * 2 ** 30 },
      volumes: {
        total: this.volumes.length,
        healthy: count('healthy'),
        degraded: count('degraded'),
        unavailable: count('unavailable'),
      },
      ...this.status,
    };
  }
}
