import type { HostDevice } from '@stor/host-attach';
import type { PublicationView, Volume } from '@stor/protocol';
import { checkWithin, readAccess, readFileSystem } from '../core/access-modes.ts';
import type { Access } from '../core/access-modes.ts';
import { checkId, checkPath } from '../core/check-fields.ts';
import { csiError } from '../core/csi-error.ts';
import { labelKeys } from '../core/csi-names.ts';
import { findVolume, theVolume } from '../find-object.ts';
import type { StageRequest, UnstageRequest } from '../messages.ts';
import { exclusively } from './controller-context.ts';
import type { NodeContext } from './node-context.ts';
import { bindsOf, stagedVolume } from './staged-volume.ts';

/** NodeStageVolume and NodeUnstageVolume: a device of the host, mounted at one place. See csi.proto. */
export class NodeStageService {
  readonly #context: NodeContext;

  constructor(context: NodeContext) {
    this.#context = context;
  }

  async nodeStageVolume(request: StageRequest, signal: AbortSignal): Promise<object> {
    const { api, binds, pending } = this.#context;
    const id = checkId('volume_id', request.volumeId);
    const path = checkPath('staging_target_path', request.stagingTargetPath);
    const access = readAccess(request.volumeCapability);
    await exclusively(pending, [`volume ${id}`], 'NodeStageVolume', async () => {
      const volume = await theVolume(api, id, signal);
      checkWithin(volume.spec.policy, access);
      const publication = this.#publication(volume);
      const target = await binds.real(path);
      if (access.kind === 'mount') {
        await this.#mount(volume, publication, access, target, signal);
      } else {
        await this.#attach(volume, publication, signal);
      }
    });
    return {};
  }

  /** The publication stays: ControllerUnpublishVolume ends it. What is gone already is fine. */
  async nodeUnstageVolume(request: UnstageRequest, signal: AbortSignal): Promise<object> {
    const { binds, pending } = this.#context;
    const id = checkId('volume_id', request.volumeId);
    const path = checkPath('staging_target_path', request.stagingTargetPath);
    await exclusively(pending, [`volume ${id}`], 'NodeUnstageVolume', async () => {
      await this.#unstage(id, await binds.real(path), signal);
    });
    return {};
  }

  /**
   * The right of this host, given by ControllerPublishVolume. Without it nothing is staged: a call that comes late
   * would take the volume back to a host that it has left.
   */
  #publication({ metadata, status }: Volume): PublicationView {
    const { nodeId } = this.#context;
    const found = status.publications.find((each) => each.nodeId === nodeId);
    if (found) return found;
    throw csiError(
      'FAILED_PRECONDITION',
      `volume ${metadata.name} is not published to this node: ControllerPublishVolume comes first`,
    );
  }

  async #mount(
    volume: Volume,
    publication: PublicationView,
    access: Access,
    target: string,
    signal: AbortSignal,
  ): Promise<void> {
    const { host, binds } = this.#context;
    const { id, labels, name } = volume.metadata;
    const staged = stagedVolume(this.#context, id);
    if (staged?.mount && staged.mount.target !== target) {
      throw csiError('ALREADY_EXISTS', `volume ${name} is staged at ${staged.mount.target}`);
    }
    // a workload that has the block device would write beneath the file system
    const [raw] = staged && !staged.mount ? await bindsOf(this.#context, staged) : [];
    if (raw) {
      throw csiError(
        'ALREADY_EXISTS',
        `volume ${name} is published as a block device at ${raw.target}`,
      );
    }
    const readOnly = publication.readOnly || access.readOnly;
    // one that began as another has that one's file system already
    const isCopy = labels[labelKeys.source] !== undefined;
    const usual = isCopy ? '' : (labels[labelKeys.fs] ?? '');
    const fileSystem = access.fileSystem ?? (usual === '' ? null : readFileSystem('fs', usual));
    const order = { volume: id, user: 'csi' as const, target, readOnly };
    await host.mount(
      { ...order, ...(fileSystem ? { fileSystem } : {}), options: [...access.mountFlags] },
      signal,
    );
    if (readOnly) return;
    // it may have been made larger than its source, or while it was on no host
    await host.grow(id, signal);
    if (access.gid !== null) await binds.setGroup(target, access.gid, signal);
  }

  async #attach(
    volume: Volume,
    { readOnly }: PublicationView,
    signal: AbortSignal,
  ): Promise<HostDevice> {
    const { id, name } = volume.metadata;
    const mount = stagedVolume(this.#context, id)?.mount;
    if (mount) {
      throw csiError(
        'ALREADY_EXISTS',
        `volume ${name} is staged as a file system at ${mount.target}`,
      );
    }
    const device = this.#context.host.list().find((each) => each.volumeId === id);
    const [other] = device?.mounts ?? [];
    if (other) {
      throw csiError(
        'FAILED_PRECONDITION',
        `volume ${name} is mounted at ${other.target} by ${other.user}: as a block device it would be written beneath that`,
      );
    }
    const staged = stagedVolume(this.#context, id);
    const [published] = staged ? await bindsOf(this.#context, staged) : [];
    if (staged && published && staged.device.failure !== null) {
      // a workload has it by its number, which another volume's device may get when this one is made anew
      throw csiError(
        'FAILED_PRECONDITION',
        `the device of volume ${name} fails (${staged.device.failure}) and is published at ${published.target}: NodeUnpublishVolume comes first`,
      );
    }
    return this.#context.host.attach({ volume: id, user: 'csi', readOnly }, signal);
  }

  async #unstage(volume: string, target: string, signal: AbortSignal): Promise<void> {
    const { api, host } = this.#context;
    const staged = stagedVolume(this.#context, volume);
    if (!staged) return;
    const { device, mount } = staged;
    // staged elsewhere: whoever asks means something that is gone
    if (mount && mount.target !== target) return;
    const published = await bindsOf(this.#context, staged);
    if (published.length > 0) {
      const targets = published.map((each) => each.target).join(', ');
      throw csiError(
        'FAILED_PRECONDITION',
        `volume ${device.volume} is published at ${targets}: NodeUnpublishVolume comes first`,
      );
    }
    const known = await findVolume(api, volume, signal);
    const isOurs = known?.status.publications.some(({ id }) => id === device.publication) ?? false;
    if (mount) await host.unmount({ target, user: 'csi', keepAttached: true }, signal);
    // a volume that another host has takes nothing from this one: what waits to be written would wait for ever
    const force = !isOurs;
    await host.detach({ volume, user: 'csi', keepPublication: true, force }, signal);
  }
}
