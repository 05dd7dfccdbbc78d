import { hasCode, StorError } from '@stor/protocol';
import type { Volume } from '@stor/protocol';
import { checkSupported, needsShared, readAccesses } from '../core/access-modes.ts';
import { newSize } from '../core/capacity-range.ts';
import { checkName, checkRange, invalid } from '../core/check-fields.ts';
import { csiError } from '../core/csi-error.ts';
import { canonicalText, storName } from '../core/csi-names.ts';
import {
  changeForClone,
  checkCloneable,
  labelsFor,
  mismatch,
  readSource,
  wantedFileSystem,
} from '../core/made-volume.ts';
import type { WantedVolume } from '../core/made-volume.ts';
import { readSettings } from '../core/parameters.ts';
import { isPresent } from '../core/volume-view.ts';
import { theSnapshot, theVolume, volumeNamed } from '../find-object.ts';
import type { CreateVolumeRequest } from '../messages.ts';
import type { ControllerContext } from './controller-context.ts';

type CreateOrder = Parameters<ControllerContext['api']['createVolume']>[0];

/** What a CreateVolume asks for. INVALID_ARGUMENT. */
export function readWanted(
  request: CreateVolumeRequest,
  { digest }: Pick<ControllerContext, 'digest'>,
): WantedVolume {
  const name = checkName(request.name);
  const accesses = readAccesses(request.volumeCapabilities);
  for (const access of accesses) checkSupported(access);
  const range = checkRange(request.capacityRange);
  const settings = readSettings(request.parameters, request.mutableParameters);
  const source = readSource(request.volumeContentSource);
  const wanted = { name, range, accesses, shared: needsShared(accesses), settings, source };
  return { ...wanted, labels: labelsFor(wanted, request.parameters, digest) };
}

/** Makes volumes, empty or of a source, so that the same request again finds what the first has made. */
export class VolumeCreation {
  readonly #context: ControllerContext;

  constructor(context: ControllerContext) {
    this.#context = context;
  }

  /** Under one operation at a time for each name. */
  async create(
    wanted: WantedVolume,
    requirement: CreateVolumeRequest['accessibilityRequirements'],
    signal: AbortSignal,
  ): Promise<Volume> {
    const { api, digest } = this.#context;
    const name = storName(wanted.name, digest);
    const known = await volumeNamed(api, name, signal);
    if (known) return this.#existing(known, wanted, signal);
    const onNode = await this.#nodeFor(requirement, signal);
    try {
      return await (wanted.source
        ? this.#clone(name, wanted, signal)
        : this.#make(name, wanted, onNode, signal));
    } catch (error) {
      if (!hasCode(error, 'ALREADY_EXISTS')) throw error;
      // another driver was faster
      const other = await volumeNamed(api, name, signal);
      if (!other) throw csiError('ABORTED', `volume ${name} comes and goes: ask again`, error);
      return this.#existing(other, wanted, signal);
    }
  }

  /** ALREADY_EXISTS when it is another one; ABORTED while it is being made. */
  async #existing(volume: Volume, wanted: WantedVolume, signal: AbortSignal): Promise<Volume> {
    const problem = mismatch(volume, wanted);
    if (problem !== '') {
      throw csiError(
        'ALREADY_EXISTS',
        `there is a volume ${volume.metadata.name} (${volume.metadata.id}) already, and ${problem}`,
      );
    }
    if (!isPresent(volume)) {
      const { name } = volume.metadata;
      throw csiError('ABORTED', `volume ${name} is ${volume.status.health}: ask again later`);
    }
    return wanted.source ? this.#settle(volume, wanted, signal) : volume;
  }

  async #nodeFor(
    requirement: CreateVolumeRequest['accessibilityRequirements'],
    signal: AbortSignal,
  ): Promise<string> {
    if (!requirement) return '';
    const { api, keys, clusterId } = this.#context;
    const { nodes } = await api.listNodes({}, { signal });
    return keys.chosenNode(requirement, nodes, clusterId);
  }

  async #make(
    name: string,
    wanted: WantedVolume,
    onNode: string,
    signal: AbortSignal,
  ): Promise<Volume> {
    const { settings, shared, labels } = wanted;
    const needs = { fileSystem: wantedFileSystem(wanted), sourceBytes: 0 };
    const order: CreateOrder = {
      name,
      sizeBytes: newSize(wanted.range, needs),
      replicas: settings.replicas,
      labels,
      policy: { ...settings.policy, ...(shared ? { shared } : {}) },
      diskTag: settings.diskTag,
      placement: settings.placement,
      onNode,
      qos: settings.qos.set,
      policyName: settings.policyName ?? '',
    };
    const requestId = this.#requestId(order);
    try {
      return await this.#context.api.createVolume({ ...order, requestId }, { signal });
    } catch (error) {
      // nothing that the request itself names by id: a parameter does
      if (hasCode(error, 'NOT_FOUND')) throw invalid(error.message);
      throw error;
    }
  }

  async #clone(name: string, wanted: WantedVolume, signal: AbortSignal): Promise<Volume> {
    const { api } = this.#context;
    const { range, settings, labels, shared } = wanted;
    const from = await this.#sourceOf(wanted, signal);
    const needs = { fileSystem: wantedFileSystem(wanted), sourceBytes: from.sizeBytes };
    const order = {
      source: from.volumeId,
      snapshot: from.snapshotId,
      name,
      sizeBytes: newSize(range, needs),
      labels,
      policy: { ...settings.policy, shared },
    };
    const clone = await api.cloneVolume(
      { ...order, requestId: this.#requestId(order) },
      { signal },
    );
    try {
      return await this.#settle(clone, wanted, signal);
    } catch (error) {
      await this.#dropRefused(clone, error, signal);
      throw error;
    }
  }

  /** NOT_FOUND; FAILED_PRECONDITION while it is not ready. */
  async #sourceOf(
    wanted: WantedVolume,
    signal: AbortSignal,
  ): Promise<{ volumeId: string; snapshotId: string; sizeBytes: number }> {
    const { api } = this.#context;
    const id = wanted.source?.id ?? '';
    if (wanted.source?.kind === 'volume') {
      const volume = await theVolume(api, id, signal);
      checkCloneable(volume, wanted);
      return { volumeId: id, snapshotId: '', sizeBytes: volume.spec.sizeBytes };
    }
    const { metadata, spec, status } = await theSnapshot(api, id, signal);
    if (status.state !== 'ready') {
      throw csiError('FAILED_PRECONDITION', `snapshot ${metadata.name} is still being taken`);
    }
    checkCloneable(await theVolume(api, spec.volumeId, signal), wanted);
    return { volumeId: spec.volumeId, snapshotId: id, sizeBytes: spec.sizeBytes };
  }

  /** Gives a clone what its source had otherwise; the same again changes nothing more. */
  async #settle(clone: Volume, wanted: WantedVolume, signal: AbortSignal): Promise<Volume> {
    const change = changeForClone(clone, wanted);
    if (!change) return clone;
    const { api } = this.#context;
    try {
      return await api.updateVolume({ name: clone.metadata.id, ...change }, { signal });
    } catch (error) {
      if (hasCode(error, 'NOT_FOUND')) throw invalid(error.message);
      throw error;
    }
  }

  /**
   * A clone that can never be what was asked for would be left behind: the orchestrator does not know it. It
   * goes to the trash, from which it can be brought back.
   */
  async #dropRefused(clone: Volume, error: unknown, signal: AbortSignal): Promise<void> {
    if (!hasCode(error, 'INVALID_ARGUMENT', 'FAILED_PRECONDITION', 'NO_SPACE')) return;
    const { api, logger } = this.#context;
    const { id: name, resourceVersion } = clone.metadata;
    await api.deleteVolume({ name, resourceVersion }, { signal }).catch((failure: unknown) => {
      const { message } = StorError.from(failure);
      logger.warn({ volume: clone.metadata.name, message }, 'a refused clone stays');
    });
  }

  /** The same for the same order, so that it is carried out once, by whichever node. */
  #requestId(order: object): string {
    return `csi:${this.#context.digest(canonicalText(order))}`;
  }
}
