import { checkSupported, readAccess } from '../core/access-modes.ts';
import { checkId, checkPath, checkRange } from '../core/check-fields.ts';
import { csiError } from '../core/csi-error.ts';
import { asRpcs, nodeCapabilities } from '../core/driver-info.ts';
import { theNode } from '../find-object.ts';
import type { NodeExpandRequest, StatsRequest, VolumeCondition, VolumeUsage } from '../messages.ts';
import { exclusively } from './controller-context.ts';
import type { NodeContext } from './node-context.ts';
import { bindsOf, stagedVolume } from './staged-volume.ts';
import type { StagedVolume } from './staged-volume.ts';

/** Calls of the Node service that make no mount; see csi.proto. */
export class NodeService {
  readonly #context: NodeContext;

  constructor(context: NodeContext) {
    this.#context = context;
  }

  async nodeGetCapabilities(): Promise<object> {
    return { capabilities: asRpcs(nodeCapabilities) };
  }

  async nodeGetInfo(_request: object, signal: AbortSignal): Promise<object> {
    const { api, nodeId, clusterId, keys, maxVolumesPerNode } = this.#context;
    const node = await theNode(api, nodeId, signal);
    const accessibleTopology = keys.ofNode(node, clusterId);
    return { nodeId, maxVolumesPerNode, accessibleTopology };
  }

  async nodeGetVolumeStats(request: StatsRequest): Promise<object> {
    const id = checkId('volume_id', request.volumeId);
    const path = checkPath('volume_path', request.volumePath);
    const staged = this.#staged(id);
    await this.#checkPlace(staged, path);
    const { failure } = staged.device;
    const condition: VolumeCondition =
      failure === null
        ? { abnormal: false, message: 'the device answers' }
        : { abnormal: true, message: failure };
    return { usage: await this.#usage(staged), volumeCondition: condition };
  }

  async nodeExpandVolume(request: NodeExpandRequest, signal: AbortSignal): Promise<object> {
    const { host, pending } = this.#context;
    const id = checkId('volume_id', request.volumeId);
    const path = checkPath('volume_path', request.volumePath);
    const range = checkRange(request.capacityRange);
    if (request.volumeCapability) checkSupported(readAccess(request.volumeCapability));
    const bytes = await exclusively(pending, [`volume ${id}`], 'NodeExpandVolume', async () => {
      const staged = this.#staged(id);
      // orchestrators name various places of a block device, some before it is published
      if (staged.mount) await this.#checkPlace(staged, path);
      return (await host.grow(id, signal)).sizeBytes;
    });
    const { requiredBytes, limitBytes } = range ?? { requiredBytes: 0, limitBytes: 0 };
    if (bytes < requiredBytes || (limitBytes > 0 && bytes > limitBytes)) {
      throw csiError(
        'OUT_OF_RANGE',
        `the volume has ${bytes} bytes: ControllerExpandVolume changes that`,
      );
    }
    return { capacityBytes: bytes };
  }

  #staged(id: string): StagedVolume {
    const staged = stagedVolume(this.#context, id);
    if (staged) return staged;
    throw csiError(
      'NOT_FOUND',
      `no volume with the id ${JSON.stringify(id.slice(0, 128))} is staged on this node`,
    );
  }

  /** NOT_FOUND unless the volume is staged or published there. */
  async #checkPlace(staged: StagedVolume, path: string): Promise<void> {
    const place = await this.#context.binds.real(path);
    if (place === staged.mount?.target) return;
    const published = await bindsOf(this.#context, staged);
    if (published.some(({ target }) => target === place)) return;
    throw csiError('NOT_FOUND', `volume ${staged.device.volume} is not at ${path}`);
  }

  async #usage({ device, mount }: StagedVolume): Promise<VolumeUsage[]> {
    if (!mount) return [{ total: device.sizeBytes, unit: 'BYTES' }];
    const stats = await this.#context.host.stats(mount.target);
    return [
      {
        total: stats.totalBytes,
        used: stats.usedBytes,
        available: stats.availableBytes,
        unit: 'BYTES',
      },
      {
        total: stats.totalInodes,
        used: stats.usedInodes,
        available: stats.availableInodes,
        unit: 'INODES',
      },
    ];
  }
}
