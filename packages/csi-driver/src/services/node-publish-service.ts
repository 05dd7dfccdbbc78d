import { readAccess } from '../core/access-modes.ts';
import type { Access } from '../core/access-modes.ts';
import { checkId, checkPath } from '../core/check-fields.ts';
import { csiError } from '../core/csi-error.ts';
import { theVolume } from '../find-object.ts';
import type { NodePublishRequest, NodeUnpublishRequest } from '../messages.ts';
import { exclusively } from './controller-context.ts';
import type { NodeContext } from './node-context.ts';
import { bindsOf, stagedVolume } from './staged-volume.ts';
import type { StagedVolume } from './staged-volume.ts';

/** NodePublishVolume and NodeUnpublishVolume: bind mounts for workloads. See csi.proto. */
export class NodePublishService {
  readonly #context: NodeContext;

  constructor(context: NodeContext) {
    this.#context = context;
  }

  async nodePublishVolume(request: NodePublishRequest, signal: AbortSignal): Promise<object> {
    const { pending } = this.#context;
    const id = checkId('volume_id', request.volumeId);
    checkPath('target_path', request.targetPath);
    const access = readAccess(request.volumeCapability);
    if (request.stagingTargetPath === '') {
      throw csiError(
        'FAILED_PRECONDITION',
        'staging_target_path is missing: volumes are staged before they are published',
      );
    }
    checkPath('staging_target_path', request.stagingTargetPath);
    await exclusively(pending, [`volume ${id}`], 'NodePublishVolume', () =>
      this.#publish(id, request, access, signal),
    );
    return {};
  }

  /** Deletes the target too. What is gone already is fine. */
  async nodeUnpublishVolume(request: NodeUnpublishRequest, signal: AbortSignal): Promise<object> {
    const { binds, pending } = this.#context;
    const id = checkId('volume_id', request.volumeId);
    const path = checkPath('target_path', request.targetPath);
    await exclusively(pending, [`volume ${id}`], 'NodeUnpublishVolume', async () => {
      const target = await binds.real(path);
      await this.#checkOwn(id, target);
      await binds.unbind(target, signal);
    });
    return {};
  }

  async #publish(
    id: string,
    request: NodePublishRequest,
    access: Access,
    signal: AbortSignal,
  ): Promise<void> {
    const { binds } = this.#context;
    const staged = await this.#staged(id, request, access, signal);
    const { device, mount, source } = staged;
    // nothing that is lost is given to a workload; its path may soon be another volume's
    if (device.failure !== null) {
      throw csiError(
        'FAILED_PRECONDITION',
        `the device of volume ${device.volume} fails (${device.failure}): unpublish and unstage the volume here, and stage it again`,
      );
    }
    const target = await binds.real(checkPath('target_path', request.targetPath));
    const isStagedSo = mount ? mount.readOnly : device.readOnly;
    const readOnly = request.readonly || access.readOnly || isStagedSo;
    if (readOnly && access.kind === 'block' && !device.readOnly) {
      throw csiError(
        'FAILED_PRECONDITION',
        'a block device that is published for writing cannot be read-only for one workload: publish it read-only in ControllerPublishVolume',
      );
    }
    const present = await bindsOf(this.#context, staged);
    const same = present.find((each) => each.target === target);
    if (same && access.kind === 'mount' && same.readOnly !== readOnly) {
      throw csiError(
        'ALREADY_EXISTS',
        `volume ${device.volume} is published at ${target} ${same.readOnly ? 'read-only' : 'for writing'}`,
      );
    }
    const other = present.find((each) => each.target !== target);
    if (other && !access.multiTarget) {
      throw csiError(
        'FAILED_PRECONDITION',
        `volume ${device.volume} is published at ${other.target}, and ${access.mode} is for one place`,
      );
    }
    if (mount && !readOnly && access.gid !== null) {
      await binds.setGroup(mount.target, access.gid, signal);
    }
    await binds.bind({ ...source, target, readOnly }, signal);
  }

  /** NOT_FOUND: there is no such volume; FAILED_PRECONDITION: it is not staged, or not like that. */
  async #staged(
    id: string,
    { stagingTargetPath }: NodePublishRequest,
    access: Access,
    signal: AbortSignal,
  ): Promise<StagedVolume> {
    const { api, binds } = this.#context;
    const staged = stagedVolume(this.#context, id);
    if (!staged) {
      const { name } = (await theVolume(api, id, signal)).metadata;
      throw csiError(
        'FAILED_PRECONDITION',
        `volume ${name} is not staged here: NodeStageVolume comes first`,
      );
    }
    const { device, mount } = staged;
    const path = await binds.real(checkPath('staging_target_path', stagingTargetPath));
    if ((mount !== null) !== (access.kind === 'mount')) {
      const how = mount ? 'file system' : 'block device';
      throw csiError('FAILED_PRECONDITION', `volume ${device.volume} is staged as a ${how}`);
    }
    if (!mount || mount.target === path) return staged;
    throw csiError(
      'FAILED_PRECONDITION',
      `volume ${device.volume} is staged at ${mount.target}, not at ${path}`,
    );
  }

  /** FAILED_PRECONDITION: what is mounted there is not of this volume, so it is left alone. */
  async #checkOwn(id: string, target: string): Promise<void> {
    const { binds } = this.#context;
    const staged = stagedVolume(this.#context, id);
    if (!staged || !(await binds.isMounted(target))) return;
    const own = await bindsOf(this.#context, staged);
    if (own.some((each) => each.target === target)) return;
    throw csiError(
      'FAILED_PRECONDITION',
      `what is mounted at ${target} is not volume ${staged.device.volume}: it is left alone`,
    );
  }
}
