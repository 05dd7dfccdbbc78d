import type { Test } from 'tap';
import type { CsiSnapshot, CsiVolume, Texts, VolumeCapability } from '../../messages.ts';
import type { CsiClient } from '../csi-client.ts';

/** A driver that runs, with a cluster and a host behind it. */
export interface ConformanceTarget {
  /** sockets of both sides; the same client when there is one */
  controller: CsiClient;
  node: CsiClient;
  /** of new volumes */
  volumeBytes: number;
  parameters: Texts;
  /** an existing folder in which places for staging and targets are made */
  folder: string;
  /** whether there is anything at a path of the host */
  exists(path: string): Promise<boolean>;
  /** tells names of this run apart from those of any other */
  prefix: string;
}

export type AccessKind = 'mount' | 'block';

export function capability(kind: AccessKind, mode = 'SINGLE_NODE_WRITER'): VolumeCapability {
  const access = kind === 'mount' ? { mount: { fsType: '', mountFlags: [] } } : { block: {} };
  return { ...access, accessMode: { mode } } as unknown as VolumeCapability;
}

let names = 0;

/** Volumes, snapshots and places of one test, which are gone when it ends. */
export class ConformanceBench {
  readonly target: ConformanceTarget;
  readonly #undo: (() => Promise<unknown>)[] = [];

  constructor(t: Test, target: ConformanceTarget) {
    this.target = target;
    t.teardown(async () => {
      for (const undo of this.#undo.reverse()) await undo();
    });
  }

  name(what: string): string {
    return `${this.target.prefix}-${what}-${++names}`;
  }

  path(what: string): string {
    return `${this.target.folder}/${this.name(what)}`;
  }

  request(name: string, more: object = {}): object {
    const { volumeBytes, parameters } = this.target;
    return {
      name,
      capacityRange: { requiredBytes: volumeBytes },
      volumeCapabilities: [capability('mount')],
      parameters,
      ...more,
    };
  }

  async volume(more: object = {}, name = this.name('vol')): Promise<CsiVolume> {
    const { controller } = this.target;
    const request = this.request(name, more);
    const { volume } = await controller.call<{ volume: CsiVolume }>(
      'Controller.CreateVolume',
      request,
    );
    this.#undo.push(() =>
      controller.call('Controller.DeleteVolume', { volumeId: volume.volumeId }),
    );
    return volume;
  }

  async snapshot(sourceVolumeId: string, name = this.name('snap')): Promise<CsiSnapshot> {
    const { controller } = this.target;
    const { snapshot } = await controller.call<{ snapshot: CsiSnapshot }>(
      'Controller.CreateSnapshot',
      { sourceVolumeId, name },
    );
    const { snapshotId } = snapshot;
    this.#undo.push(() => controller.call('Controller.DeleteSnapshot', { snapshotId }));
    return snapshot;
  }

  async nodeId(): Promise<string> {
    return (await this.target.node.call<{ nodeId: string }>('Node.NodeGetInfo')).nodeId;
  }

  /** Published to the host of the node side, until the test ends. */
  async published(volumeId: string, kind: AccessKind, mode?: string): Promise<void> {
    const { controller } = this.target;
    const nodeId = await this.nodeId();
    this.#undo.push(() =>
      controller.call('Controller.ControllerUnpublishVolume', { volumeId, nodeId }),
    );
    await controller.call('Controller.ControllerPublishVolume', {
      volumeId,
      nodeId,
      volumeCapability: capability(kind, mode),
    });
  }

  /** Published and staged; returns the place. */
  async staged(volumeId: string, kind: AccessKind, mode?: string): Promise<string> {
    const { node } = this.target;
    await this.published(volumeId, kind, mode);
    const stagingTargetPath = this.path('stage');
    this.#undo.push(() => node.call('Node.NodeUnstageVolume', { volumeId, stagingTargetPath }));
    await node.call('Node.NodeStageVolume', {
      volumeId,
      stagingTargetPath,
      volumeCapability: capability(kind, mode),
    });
    return stagingTargetPath;
  }

  /** At one more place; returns it. */
  async at(
    volumeId: string,
    stagingTargetPath: string,
    kind: AccessKind,
    mode?: string,
  ): Promise<string> {
    const { node } = this.target;
    const targetPath = this.path('target');
    this.#undo.push(() => node.call('Node.NodeUnpublishVolume', { volumeId, targetPath }));
    await node.call('Node.NodePublishVolume', {
      volumeId,
      stagingTargetPath,
      targetPath,
      volumeCapability: capability(kind, mode),
    });
    return targetPath;
  }
}
