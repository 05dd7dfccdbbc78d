import { hasCode } from '@stor/protocol';
import type { NodeId, PublicationView, Volume } from '@stor/protocol';
import { readAccess, unsupportedBy } from '../core/access-modes.ts';
import type { Access } from '../core/access-modes.ts';
import { checkId, invalid } from '../core/check-fields.ts';
import { csiError } from '../core/csi-error.ts';
import { findVolume, theNode, theVolume } from '../find-object.ts';
import type { ControllerPublishRequest, ControllerUnpublishRequest } from '../messages.ts';
import { exclusively } from './controller-context.ts';
import type { ControllerContext } from './controller-context.ts';

/** Before the access mode, in the owner of a publication. */
const ownerPrefix = 'csi ';
/** A node may count a connection for a moment after its end: tries to unpublish, and their distance (ms). */
const unpublishTries = 4;
const unpublishPauseMs = 250;

/** Which host may use a volume: publications (ADR 19). See csi.proto. */
export class PublishService {
  readonly #context: ControllerContext;

  constructor(context: ControllerContext) {
    this.#context = context;
  }

  async controllerPublishVolume(
    request: ControllerPublishRequest,
    signal: AbortSignal,
  ): Promise<object> {
    const { api, pending } = this.#context;
    const name = checkId('volume_id', request.volumeId);
    const node = checkId('node_id', request.nodeId);
    const access = readAccess(request.volumeCapability);
    const readOnly = request.readonly || access.readOnly;
    await exclusively(pending, [`volume ${name}`], 'ControllerPublishVolume', async () => {
      const volume = await theVolume(api, name, signal);
      await theNode(api, node, signal);
      const problem = unsupportedBy(volume.spec.policy, access);
      if (problem !== '') throw invalid(problem);
      const isThere = volume.status.publications.some(({ nodeId }) => nodeId === node);
      if (!isThere) {
        checkBesides(volume, access);
        await this.#checkRoom(node, signal);
      }
      const owner = `${ownerPrefix}${access.mode}`;
      await api.publishVolume({ name, node, readOnly, owner }, { signal });
    });
    return { publishContext: { readOnly: String(readOnly) } };
  }

  async controllerUnpublishVolume(
    request: ControllerUnpublishRequest,
    signal: AbortSignal,
  ): Promise<object> {
    const { api, pending } = this.#context;
    const { nodeId: node } = request;
    const name = checkId('volume_id', request.volumeId);
    if (node !== '') checkId('node_id', node);
    await exclusively(pending, [`volume ${name}`], 'ControllerUnpublishVolume', async () => {
      // a volume that is gone is published nowhere, and so is any at a node that nobody knows
      const volume = await findVolume(api, name, signal);
      const ending = (volume?.status.publications ?? []).filter(
        ({ nodeId }) => node === '' || nodeId === node,
      );
      for (const publication of ending) await this.#unpublish(name, publication, signal);
    });
    return {};
  }

  /**
   * FAILED_PRECONDITION while the device is connected. Not of a host whose agent is down: nobody is left there to
   * unstage it, and the orchestrator asks for this only when it has given the host up. What such a host still sends
   * is fenced, as by a publication to another one.
   */
  async #unpublish(
    name: string,
    { id: publication, nodeId }: PublicationView,
    signal: AbortSignal,
  ): Promise<void> {
    const { api, clock } = this.#context;
    // by its id: the node itself may be forgotten by now
    const order = { name, node: '', publication };
    let force = false;
    for (let tried = 1; ; tried++) {
      try {
        await api.unpublishVolume({ ...order, force }, { signal });
        return;
      } catch (error) {
        if (hasCode(error, 'NOT_FOUND')) return;
        if (!hasCode(error, 'FAILED_PRECONDITION') || tried >= unpublishTries) throw error;
        force = await this.#isDown(nodeId, signal);
        if (!force) await new Promise<void>((resolve) => clock.after(unpublishPauseMs, resolve));
      }
    }
  }

  async #isDown(nodeId: NodeId, signal: AbortSignal): Promise<boolean> {
    const { nodes } = await this.#context.api.listNodes({}, { signal });
    const node = nodes.find(({ metadata }) => metadata.id === nodeId);
    return node?.status.state !== 'up';
  }

  /** RESOURCE_EXHAUSTED when the host has as many as it may. */
  async #checkRoom(node: string, signal: AbortSignal): Promise<void> {
    const { api, maxVolumesPerNode: most } = this.#context;
    if (most === 0) return;
    const { volumes } = await api.listVolumes({}, { signal });
    const count = volumes.filter(({ status }) =>
      status.publications.some(({ nodeId }) => nodeId === node),
    ).length;
    if (count < most) return;
    throw csiError(
      'RESOURCE_EXHAUSTED',
      `node ${node} uses ${count} volumes, and may use ${most}: publish to another one`,
    );
  }
}

/**
 * FAILED_PRECONDITION: a volume for several hosts that one of them wants for itself, or has for itself. Of
 * any other volume the publication itself sees to that.
 */
function checkBesides({ metadata, spec, status }: Volume, access: Access): void {
  if (!spec.policy.shared) return;
  const alone = status.publications.find(({ owner }) => owner.startsWith(`${ownerPrefix}SINGLE_`));
  const [other] = access.multiNode ? (alone ? [alone] : []) : status.publications;
  if (!other) return;
  throw csiError(
    'FAILED_PRECONDITION',
    `volume ${metadata.name} is published to node ${other.node} (${other.owner}), and ${access.mode} does not go beside that`,
  );
}
