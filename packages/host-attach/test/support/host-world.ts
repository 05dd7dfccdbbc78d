import { parsePublishedExport } from '@stor/protocol';
import { silentLogger, type Files } from '@stor/runtime';
import { FakeClock, FaultyFiles } from '@stor/runtime/testing';
import type {
  DeviceProcesses,
  DeviceSpec,
  DeviceState,
} from '../../src/device/device-processes.ts';
import type { AllocationProbe, HostTools } from '../../src/host-tools.ts';
import type { DeviceMeans, WantedMeans } from '../../src/host-volumes.ts';
import { SystemHostVolumes } from '../../src/index.ts';
import {
  FakeDeviceProcesses,
  FakeHostTools,
  memoryAllocation,
  type FakeBlockDevice,
  type MemoryVolumes,
} from '../../src/testing/index.ts';
import type { VolumePort } from '../../src/volume-port.ts';

/** What the agents of one life reach the host by; a test puts faults before it. */
export interface HostPorts {
  volumes: VolumePort;
  processes: DeviceProcesses;
  tools: HostTools;
  allocation: AllocationProbe;
  files: Files;
}

/** One host in memory: what outlives its agents. */
export class HostWorld {
  readonly volumes: MemoryVolumes;
  readonly node: string;
  readonly processes: FakeDeviceProcesses;
  readonly tools: FakeHostTools;
  readonly disk = new FaultyFiles({ seed: 1 });
  readonly clock = new FakeClock();
  bootId = 'boot-1';

  /** `means`: by which devices can be made there; FUSE and a loop device unless given */
  constructor(volumes: MemoryVolumes, node: string, means?: readonly DeviceMeans[]) {
    this.processes = new FakeDeviceProcesses(means ? { means } : {});
    this.volumes = volumes;
    this.node = node;
    this.tools = new FakeHostTools({ volumes, deviceAt: (path) => this.#deviceAt(path) });
  }

  /** The process of a volume's device; null: there is none. */
  running(volume: string): { spec: DeviceSpec; state: DeviceState } | null {
    return this.processes.list().find(({ spec }) => volumeOf(spec) === volume) ?? null;
  }

  /** All device processes are killed. */
  killAll(): void {
    for (const { spec } of this.processes.list()) this.processes.kill(spec.id, spec.dir);
  }

  breakDevice(volume: string, failure: string): void {
    const { spec } = this.running(volume) ?? {};
    if (spec) this.processes.fail(spec.id, spec.dir, failure);
  }

  #deviceAt(path: string): FakeBlockDevice | null {
    const found = this.processes.list().find(({ state }) => state.path === path);
    return found ? { volume: volumeOf(found.spec), sizeBytes: found.state.sizeBytes } : null;
  }

  ports(): HostPorts {
    const { volumes, processes, tools } = this;
    return {
      ...{ volumes, processes, tools },
      allocation: memoryAllocation(volumes),
      files: this.disk.process(),
    };
  }

  /** An agent starts on it. */
  async start(
    ports: HostPorts = this.ports(),
    means: WantedMeans = 'auto',
  ): Promise<SystemHostVolumes> {
    const { nodes } = await this.volumes.listNodes({});
    const nodeId = nodes.find(({ metadata }) => metadata.name === this.node)?.metadata.id ?? '';
    return SystemHostVolumes.open({
      ...ports,
      folder: '/data/host',
      nodeId,
      bootId: this.bootId,
      means,
      tls: null,
      clock: this.clock,
      logger: silentLogger,
    });
  }

  reboot(): void {
    this.bootId = `boot-${Number(this.bootId.slice(5)) + 1}`;
    this.killAll();
    this.tools.table = [];
    this.tools.openFiles.clear();
  }

  setOpenFiles(at: string, who: string | null): void {
    const users = who === null ? [] : [who];
    if (who === null) this.tools.openFiles.delete(at);
    else this.tools.openFiles.set(at, who);
    for (const { spec, state } of this.processes.list()) {
      if (state.path === at) this.processes.use(spec.id, spec.dir, users);
    }
  }
}

function volumeOf({ exportName }: DeviceSpec): string {
  return parsePublishedExport(exportName)?.volume ?? '';
}
