import type { MemoryVolumes } from '@stor/host-attach/testing';
import {
  changePolicy,
  defaultPolicy,
  StorError,
  type CallOptions,
  type StorApi,
  type Volume,
} from '@stor/protocol';
import type { VolumeApi } from '../docker-volumes.ts';

type Request<M extends keyof VolumeApi> = Parameters<StorApi[M]>[0];

/**
 * The part of the API that makes and removes volumes, in memory: over `MemoryVolumes`, which hosts share.
 */
export class MemoryVolumeApi implements VolumeApi {
  /** what was asked, in order: `create db`, `clone db2 db@monday`, `delete db` */
  readonly calls: string[] = [];
  readonly #volumes: MemoryVolumes;
  readonly #failures = new Map<keyof VolumeApi, StorError[]>();
  readonly #holds = new Map<keyof VolumeApi, Promise<void>>();

  constructor(volumes: MemoryVolumes) {
    this.#volumes = volumes;
  }

  /** The next such call fails with it, having done nothing. */
  failNext(call: keyof VolumeApi, error: StorError): void {
    this.#failures.set(call, [...(this.#failures.get(call) ?? []), error]);
  }

  /** Calls of that kind wait, before they do anything, until what is returned is called. */
  hold(call: keyof VolumeApi): () => void {
    let release = (): void => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    this.#holds.set(call, held);
    return () => {
      if (this.#holds.get(call) === held) this.#holds.delete(call);
      release();
    };
  }

  async createVolume(request: Request<'createVolume'>, options?: CallOptions): Promise<Volume> {
    await this.#begin('createVolume', `create ${request.name}`, options);
    const { name, sizeBytes, labels, policy = {}, qos, policyName } = request;
    this.#checkFree(name);
    const replicas = request.replicas === 0 ? 3 : request.replicas;
    const volume = this.#volumes.add(name, { sizeBytes, labels });
    volume.spec.replicas = replicas;
    volume.spec.policy = changePolicy(defaultPolicy(replicas), policy);
    if (qos) volume.spec.qos = qos;
    if (policyName !== undefined && policyName !== '') volume.spec.policyName = policyName;
    return structuredClone(volume);
  }

  async cloneVolume(request: Request<'cloneVolume'>, options?: CallOptions): Promise<Volume> {
    const { name, labels, policy = {}, snapshot } = request;
    const from = snapshot === '' ? request.source : `${request.source}@${snapshot}`;
    await this.#begin('cloneVolume', `clone ${name} ${from}`, options);
    this.#checkFree(name);
    const source = this.#volumes.find(request.source);
    const sizeBytes = request.sizeBytes === 0 ? source.spec.sizeBytes : request.sizeBytes;
    const volume = this.#volumes.add(name, { sizeBytes, labels });
    volume.spec = { ...source.spec, sizeBytes, policy: changePolicy(source.spec.policy, policy) };
    volume.status.origin = {
      volumeId: source.metadata.id,
      volume: source.metadata.name,
      snapshotId: 's-0000000000000001',
      snapshot,
    };
    Object.assign(this.#volumes.content(name), this.#volumes.content(source.metadata.id));
    return structuredClone(volume);
  }

  async getVolume(request: { name: string }, options?: CallOptions): Promise<Volume> {
    await this.#begin('getVolume', null, options);
    return structuredClone(this.#volumes.find(request.name));
  }

  async listVolumes(
    _request: Record<string, never>,
    options?: CallOptions,
  ): Promise<{ volumes: Volume[] }> {
    await this.#begin('listVolumes', null, options);
    return this.#volumes.listVolumes({}, options);
  }

  async deleteVolume(
    request: Request<'deleteVolume'>,
    options?: CallOptions,
  ): Promise<{ keptUntilMs: number }> {
    const name = this.#volumes.has(request.name)
      ? this.#volumes.find(request.name).metadata.name
      : request.name;
    await this.#begin('deleteVolume', `delete ${name}`, options);
    const [holder] = this.#volumes.find(name).status.publications;
    if (holder) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `volume ${name} is used as a device on node ${holder.node}`,
        { details: { holder: holder.node } },
      );
    }
    this.#volumes.remove(name);
    return { keptUntilMs: 1 };
  }

  #checkFree(name: string): void {
    if (this.#volumes.has(name)) {
      throw new StorError('ALREADY_EXISTS', `a volume named ${name} exists`);
    }
  }

  async #begin(
    call: keyof VolumeApi,
    text: string | null,
    options: CallOptions | undefined,
  ): Promise<void> {
    if (text !== null) this.calls.push(text);
    await this.#holds.get(call);
    if (options?.signal?.aborted) throw new StorError('ABORTED', `${call} was aborted`);
    const [error, ...rest] = this.#failures.get(call) ?? [];
    this.#failures.set(call, rest);
    if (error) throw error;
  }
}
