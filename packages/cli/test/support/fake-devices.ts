import { StorError } from '@stor/protocol';
import type { Device, DeviceApi, HostFinding, Node, Volume } from '@stor/protocol';
import { startMs } from './fake-volume.ts';

type Methods = { [M in keyof DeviceApi]: (request: Parameters<DeviceApi[M]>[0]) => unknown };

/** Devices of the hosts of a fake cluster. */
export class FakeDevices {
  devices: Device[] = [];
  checks: HostFinding[] = [
    { name: 'root', state: 'ok', text: 'the agent is root and may mount (CAP_SYS_ADMIN)' },
    { name: 'fuse', state: 'ok', text: '/dev/fuse is there' },
    { name: 'mkfs.xfs', state: 'warning', text: 'mkfs.xfs is missing: apt-get install xfsprogs' },
  ];
  readonly #nodes: (name: string) => Node;
  readonly #volumes: (name: string) => Volume;

  constructor(nodes: (name: string) => Node, volumes: (name: string) => Volume) {
    this.#nodes = nodes;
    this.#volumes = volumes;
  }

  methods(): Methods {
    return {
      attachDevice: ({ name, node, readOnly = false }) => this.#attach(name, node, readOnly),
      detachDevice: ({ name }) => this.#detach(name),
      mountVolume: (request) => {
        const { name, node, target, fileSystem = '', options = [], readOnly = false } = request;
        const device = this.#attach(name, node, false);
        const kind = fileSystem === '' ? 'ext4' : fileSystem;
        device.mounts.push({ target, fileSystem: kind, readOnly, options, user: 'storctl' });
        return device;
      },
      unmountVolume: ({ name, target }) => {
        const isIt = (device: Device): boolean =>
          device.volume === name || device.mounts.some((mount) => mount.target === target);
        for (const device of this.devices.filter(isIt)) this.#detach(device.volume);
        return {};
      },
      growDevice: ({ name }) => {
        const { metadata, spec } = this.#volumes(name);
        const device = this.devices.find(({ volume }) => volume === metadata.name);
        if (!device) throw new StorError('NOT_FOUND', `volume ${name} is no device of this host`);
        device.sizeBytes = spec.sizeBytes;
        return device;
      },
      listDevices: ({ node }) => {
        const { metadata } = this.#node(node);
        return { devices: this.devices.filter(({ nodeId }) => nodeId === metadata.id) };
      },
      checkHost: ({ node }) => ({ node: this.#node(node).metadata.name, checks: this.checks }),
    };
  }

  #node(name: string): Node {
    return this.#nodes(name === '' ? 'n1' : name);
  }

  #attach(name: string, node: string, readOnly: boolean): Device {
    const { metadata, spec, status } = this.#volumes(name);
    const known = this.devices.find(({ volume }) => volume === metadata.name);
    if (known) return known;
    const host = this.#node(node).metadata;
    const id = 'u-0000000000000001';
    const device: Device = {
      nodeId: host.id,
      node: host.name,
      volumeId: metadata.id,
      volume: metadata.name,
      publication: id,
      means: 'fuse-loop',
      path: `/dev/loop${this.devices.length}`,
      sizeBytes: spec.sizeBytes,
      readOnly,
      users: ['storctl'],
      mounts: [],
      failure: '',
    };
    this.devices.push(device);
    const exportName = `published:${id}:${metadata.name}`;
    const at = { nodeId: host.id, node: host.name, sinceMs: startMs };
    status.publications = [{ id, readOnly, owner: 'storctl', exportName, ...at }];
    return device;
  }

  #detach(name: string): Record<string, never> {
    const { metadata, status } = this.#volumes(name);
    const device = this.devices.find(({ volume }) => volume === metadata.name);
    if (!device) return {};
    this.devices = this.devices.filter((each) => each !== device);
    status.publications = [];
    return {};
  }
}
