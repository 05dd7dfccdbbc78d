import { maxVolumeBytes } from '@stor/protocol';
import type { Volume } from '@stor/protocol';
import { needsShared, readAccess, unsupported, unsupportedBy } from '../core/access-modes.ts';
import { availableBytes } from '../core/available-capacity.ts';
import { grownSize, leastBytes } from '../core/capacity-range.ts';
import { checkId, checkMap, checkRange, invalid, missing } from '../core/check-fields.ts';
import { csiStatusOf } from '../core/csi-error.ts';
import { canonicalText, storName } from '../core/csi-names.ts';
import { asRpcs, controllerCapabilities } from '../core/driver-info.ts';
import { pageOf } from '../core/list-page.ts';
import { changeFor } from '../core/made-volume.ts';
import { changesNothing, readChange, readSettings } from '../core/parameters.ts';
import { csiVolume, isPresent, volumeContext, volumeEntry } from '../core/volume-view.ts';
import { theVolume } from '../find-object.ts';
import type {
  ControllerExpandRequest,
  CreateVolumeRequest,
  GetCapacityRequest,
  ModifyRequest,
  PageRequest,
  ValidateRequest,
  VolumeCapability,
  VolumeRequest,
} from '../messages.ts';
import { exclusively } from './controller-context.ts';
import type { ControllerContext } from './controller-context.ts';
import { readWanted, VolumeCreation } from './volume-creation.ts';

const usualReplicas = 3;

/** Calls of the Controller service about volumes, but publishing and deleting; see csi.proto. */
export class ControllerService {
  readonly #context: ControllerContext;
  readonly #creation: VolumeCreation;

  constructor(context: ControllerContext) {
    this.#context = context;
    this.#creation = new VolumeCreation(context);
  }

  async controllerGetCapabilities(): Promise<object> {
    return { capabilities: asRpcs(controllerCapabilities) };
  }

  async createVolume(request: CreateVolumeRequest, signal: AbortSignal): Promise<object> {
    const { pending, digest } = this.#context;
    const wanted = readWanted(request, this.#context);
    const key = `volume ${storName(wanted.name, digest)}`;
    const volume = await exclusively(pending, [key], 'CreateVolume', () =>
      this.#creation.create(wanted, request.accessibilityRequirements, signal),
    );
    return { volume: csiVolume(volume, this.#topology()) };
  }

  async validateVolumeCapabilities(request: ValidateRequest, signal: AbortSignal): Promise<object> {
    const id = checkId('volume_id', request.volumeId);
    if (request.volumeCapabilities.length === 0) throw missing('volume_capabilities');
    const volume = await theVolume(this.#context.api, id, signal);
    const problem = problemOf(request, volume);
    if (problem !== '') return { message: problem };
    const { volumeCapabilities, parameters, mutableParameters } = request;
    const { volumeContext: context } = request;
    return {
      confirmed: { volumeContext: context, volumeCapabilities, parameters, mutableParameters },
    };
  }

  async listVolumes(request: PageRequest, signal: AbortSignal): Promise<object> {
    // before all volumes are asked for
    pageOf([], () => '', request);
    const { volumes } = await this.#context.api.listVolumes({}, { signal });
    const idOf = ({ metadata }: Volume): string => metadata.id;
    const { page, nextToken } = pageOf(volumes.filter(isPresent), idOf, request);
    return { entries: page.map((each) => volumeEntry(each, this.#topology())), nextToken };
  }

  async controllerGetVolume(request: VolumeRequest, signal: AbortSignal): Promise<object> {
    const id = checkId('volume_id', request.volumeId);
    return volumeEntry(await theVolume(this.#context.api, id, signal), this.#topology());
  }

  async getCapacity(request: GetCapacityRequest, signal: AbortSignal): Promise<object> {
    const settings = readSettings(request.parameters, {});
    const mounts = request.volumeCapabilities
      .map(readAccess)
      .filter(({ kind }) => kind === 'mount');
    const least = mounts.map(({ fileSystem }) => leastBytes(fileSystem ?? settings.fileSystem));
    const limits = {
      maximumVolumeSize: { value: maxVolumeBytes },
      minimumVolumeSize: { value: Math.max(leastBytes(null), ...least) },
    };
    if (isImpossible(request.volumeCapabilities)) return { ...limits, availableCapacity: 0 };
    const { api, keys, clusterId } = this.#context;
    const [{ nodes }, { disks }, { settings: cluster }] = await Promise.all([
      api.listNodes({}, { signal }),
      api.listDisks({}, { signal }),
      api.listPools({}, { signal }),
    ]);
    const { accessibleTopology: topology } = request;
    const isHere = !topology || keys.matching(nodes, topology, clusterId).length > 0;
    const storing = nodes.filter(({ status }) => !status.computeOnly).length;
    const replicas = settings.replicas || Math.min(usualReplicas, Math.max(1, storing));
    const need = { replicas, diskTag: settings.diskTag };
    const bytes = availableBytes(nodes, disks, need, cluster);
    return { ...limits, availableCapacity: isHere ? bytes : 0 };
  }

  async controllerExpandVolume(
    request: ControllerExpandRequest,
    signal: AbortSignal,
  ): Promise<object> {
    const { api, pending } = this.#context;
    const name = checkId('volume_id', request.volumeId);
    const range = checkRange(request.capacityRange);
    if (!range) throw missing('capacity_range');
    const access = request.volumeCapability ? readAccess(request.volumeCapability) : null;
    const bytes = await exclusively(pending, [`volume ${name}`], 'expansion', async () => {
      const volume = await theVolume(api, name, signal);
      const problem = access ? unsupportedBy(volume.spec.policy, access) : '';
      if (problem !== '') throw invalid(problem);
      const sizeBytes = grownSize(range, volume.spec.sizeBytes);
      if (sizeBytes === volume.spec.sizeBytes) return sizeBytes;
      return (await api.resizeVolume({ name, sizeBytes }, { signal })).spec.sizeBytes;
    });
    // the device of a host has its old size until it is told, with a file system or without
    return { capacityBytes: bytes, nodeExpansionRequired: true };
  }

  /** All of it or nothing: one change of the volume's record. */
  async controllerModifyVolume(request: ModifyRequest, signal: AbortSignal): Promise<object> {
    const { api, pending } = this.#context;
    const name = checkId('volume_id', request.volumeId);
    const settings = readChange(request.mutableParameters);
    await exclusively(pending, [`volume ${name}`], 'change', async () => {
      const volume = await theVolume(api, name, signal);
      const change = changesNothing(settings) ? null : changeFor(volume, settings);
      if (!change) return;
      await api.updateVolume({ name, ...change }, { signal }).catch((error: unknown) => {
        // the volume is there: it is the policy that is not
        if (csiStatusOf(error).code === 'NOT_FOUND') throw invalid(csiStatusOf(error).message);
        throw error;
      });
    });
    return {};
  }

  #topology(): { segments: Record<string, string> }[] {
    return this.#context.keys.ofVolume(this.#context.clusterId);
  }
}

/** No volume could have all of these at once. */
function isImpossible(capabilities: readonly VolumeCapability[]): boolean {
  const accesses = capabilities.map(readAccess);
  if (accesses.some((access) => unsupported(access) !== '')) return true;
  try {
    needsShared(accesses);
    return false;
  } catch {
    return true;
  }
}

/** Why the volume cannot be used as it is asked for; '' when it can. INVALID_ARGUMENT: fields are missing. */
function problemOf(request: ValidateRequest, volume: Volume): string {
  for (const capability of request.volumeCapabilities) {
    const problem = unsupportedBy(volume.spec.policy, readAccess(capability));
    if (problem !== '') return problem;
  }
  const context = checkMap('volume_context', request.volumeContext);
  const isOwn = canonicalText(context) === canonicalText(volumeContext(volume));
  if (Object.keys(context).length > 0 && !isOwn) return 'volume_context is that of another volume';
  try {
    readSettings(request.parameters, request.mutableParameters);
    return '';
  } catch (error) {
    return csiStatusOf(error).message;
  }
}
