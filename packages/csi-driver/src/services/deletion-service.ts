import { hasCode } from '@stor/protocol';
import { checkId } from '../core/check-fields.ts';
import { csiError } from '../core/csi-error.ts';
import { isOfCsi } from '../core/csi-names.ts';
import { findVolume } from '../find-object.ts';
import type { VolumeRequest } from '../messages.ts';
import { exclusively } from './controller-context.ts';
import type { ControllerContext } from './controller-context.ts';

/** How often a deletion begins anew because the volume has changed meanwhile. */
const maxConflicts = 5;

/** DeleteVolume; see csi.proto. */
export class DeletionService {
  readonly #context: ControllerContext;

  constructor(context: ControllerContext) {
    this.#context = context;
  }

  /** The volume goes to the trash, from which an operator can bring it back. What is gone already is fine. */
  async deleteVolume(request: VolumeRequest, signal: AbortSignal): Promise<object> {
    const id = checkId('volume_id', request.volumeId);
    await exclusively(this.#context.pending, [`volume ${id}`], 'DeleteVolume', async () => {
      for (let round = 1; !(await this.#isDeleted(id, signal)); round++) {
        if (round < maxConflicts) continue;
        throw csiError('ABORTED', `volume ${id} changes too often to be deleted: ask again`);
      }
    });
    return {};
  }

  /** False: it has changed since it was looked at, so it is looked at again. */
  async #isDeleted(id: string, signal: AbortSignal): Promise<boolean> {
    const { api, trashKeepMs } = this.#context;
    const volume = await findVolume(api, id, signal);
    if (!volume) return true;
    const { name, resourceVersion } = volume.metadata;
    const [publication] = volume.status.publications;
    if (publication) {
      throw csiError('FAILED_PRECONDITION', `volume ${name} is in use on node ${publication.node}`);
    }
    await this.#checkSnapshots(id, name, signal);
    const keep = trashKeepMs === null ? {} : { keepMs: trashKeepMs };
    try {
      // a snapshot that is taken now changes the record, so it does not vanish with the volume
      await api.deleteVolume({ name: id, resourceVersion, ...keep }, { signal });
      return true;
    } catch (error) {
      if (hasCode(error, 'NOT_FOUND')) return true;
      if (hasCode(error, 'CONFLICT')) return false;
      throw error;
    }
  }

  /**
   * Snapshots lie with their volume, and would go to the trash with it: those that the orchestrator knows must
   * be deleted first. Those that operators took go with the volume, as by `storctl volume rm`.
   */
  async #checkSnapshots(id: string, name: string, signal: AbortSignal): Promise<void> {
    const { snapshots } = await this.#context.api.listSnapshots({ volume: id }, { signal });
    const known = snapshots.filter(
      ({ metadata, status }) => status.state !== 'deleting' && isOfCsi(metadata.labels),
    );
    if (known.length === 0) return;
    const names = known.slice(0, 3).map(({ metadata }) => metadata.id);
    const more = known.length > names.length ? ` and ${known.length - names.length} more` : '';
    throw csiError(
      'FAILED_PRECONDITION',
      `volume ${name} has snapshots (${names.join(', ')}${more}), which would go with it: delete them first`,
    );
  }
}
