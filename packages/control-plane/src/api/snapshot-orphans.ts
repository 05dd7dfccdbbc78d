import {
  checkSnapshotName,
  hasCode,
  idPattern,
  joinSnapshotName,
  splitSnapshotName,
  StorError,
} from '@stor/protocol';
import type { Snapshot, SnapshotId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import { maxConflicts, tooManyConflicts } from '../agent/volume-records.ts';
import type { ClusterStore, Compare, Operation } from '../cluster-store.ts';
import { describeSnapshot } from '../core/volume/describe-snapshot.ts';
import {
  describeOrphan,
  orphansOf,
  recordOfOrphan,
  type OrphanSnapshot,
} from '../core/volume/orphan-snapshots.ts';
import { checkNotRollingBack } from '../core/volume/rollback-rules.ts';
import type { Versioned } from '../resources/cluster-state.ts';
import { findVolume, readState } from '../resources/find.ts';
import { snapshotKey, snapshotNameKey, volumeKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import type { StoredVolume } from '../resources/records.ts';
import { readSoon } from './read-soon.ts';
import type { ReplicaSpaces } from './replica-spaces.ts';

/**
 * Snapshots that replicas have and no record knows: the control plane was put back to before they were
 * taken. Replicas never drop them by themselves; people take them over or delete them.
 */
export class SnapshotOrphans {
  readonly #store: ClusterStore;
  readonly #spaces: ReplicaSpaces;
  readonly #clock: Clock;
  readonly #logger: Logger;

  constructor(options: {
    store: ClusterStore;
    spaces: ReplicaSpaces;
    clock: Clock;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#spaces = options.spaces;
    this.#clock = options.clock;
    this.#logger = options.logger;
  }

  /** Of one volume (name or id), or of all (''). */
  async list(volume: string): Promise<Snapshot[]> {
    const only = volume === '' ? null : await this.#volume(volume);
    const found = await this.#look(only);
    return found.flatMap(({ volume: { value }, orphans }) =>
      orphans.map((orphan) => describeOrphan(value, orphan)),
    );
  }

  /** `name`: VOLUME@ID. Null when there is no such orphan. */
  async find(
    name: string,
  ): Promise<{ volume: Versioned<StoredVolume>; orphan: OrphanSnapshot } | null> {
    const split = splitSnapshotName(name);
    if (!split) return null;
    const [found] = await this.#look(await this.#volume(split.volume));
    const orphan = found?.orphans.find(({ id }) => id === split.snapshot);
    return found && orphan ? { volume: found.volume, orphan } : null;
  }

  /** Null when there is no such orphan. */
  async get(name: string): Promise<Snapshot | null> {
    const found = await this.find(name);
    return found && describeOrphan(found.volume.value, found.orphan);
  }

  /** What is done with a snapshot that has a record, or else with the orphan of that name. */
  async insteadOf<T>(
    name: string,
    usual: () => Promise<T>,
    asOrphan: () => Promise<T | null>,
  ): Promise<T> {
    try {
      return await usual();
    } catch (error) {
      const id = splitSnapshotName(name)?.snapshot ?? '';
      if (!hasCode(error, 'NOT_FOUND') || !idPattern.test(id)) throw error;
      const found = await asOrphan();
      if (found === null) throw error;
      return found;
    }
  }

  /** See StorApi.adoptSnapshot. */
  async adopt(name: string, newName: string): Promise<Snapshot> {
    checkSnapshotName(newName);
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const { volume, orphan } = await this.#must(name);
      if (!orphan.isWhole) {
        throw new StorError(
          'FAILED_PRECONDITION',
          `not every in-sync replica of volume ${volume.value.metadata.name} is known to have snapshot ${orphan.id}: start the nodes that are down, and wait until the volume is healthy`,
        );
      }
      checkNotRollingBack(volume.value);
      const { id: volumeId, name: volumeName } = volume.value.metadata;
      const nameKey = snapshotNameKey(volumeId, newName);
      if (await this.#store.get(nameKey)) {
        const full = joinSnapshotName(volumeName, newName);
        throw new StorError('ALREADY_EXISTS', `there is a snapshot ${full} already`);
      }
      const as = { name: newName, state: 'ready', createdAtMs: this.#clock.wallMs() } as const;
      const record = recordOfOrphan(volume.value, orphan, as);
      const value = new TextEncoder().encode(orphan.id);
      const revision = await this.#write(volume, orphan.id, record, {
        compare: [{ key: nameKey, modRevision: 0 }],
        operations: [{ type: 'put', key: nameKey, value }],
      });
      if (revision === null) continue;
      this.#logger.info({ volume: volumeName, snapshot: newName, id: orphan.id }, 'adopted');
      return describeSnapshot(
        { value: record, modRevision: revision },
        volumeName,
        orphan.ownBytes,
      );
    }
    throw tooManyConflicts(`snapshot ${name}`);
  }

  /** Its replicas drop it, like any snapshot that is deleted. Null when there is no such orphan. */
  async delete(name: string): Promise<void | null> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const found = await this.find(name);
      if (!found) return null;
      const { volume, orphan } = found;
      const as = { name: orphan.id, state: 'deleting', createdAtMs: 0 } as const;
      const record = recordOfOrphan(volume.value, orphan, as);
      const revision = await this.#write(volume, orphan.id, record, {
        compare: [],
        operations: [],
      });
      if (revision !== null) return;
    }
    throw tooManyConflicts(`snapshot ${name}`);
  }

  async #must(name: string): Promise<{ volume: Versioned<StoredVolume>; orphan: OrphanSnapshot }> {
    const found = await this.find(name);
    if (found) return found;
    throw new StorError(
      'NOT_FOUND',
      `there is no orphan ${JSON.stringify(name.slice(0, 257))}: see "storctl snapshot ls --orphans"`,
    );
  }

  /** The volume's record is written too: the in-sync set is the one whose replicas were asked. */
  async #write(
    volume: Versioned<StoredVolume>,
    id: SnapshotId,
    record: object,
    more: { compare: Compare[]; operations: Operation[] },
  ): Promise<number | null> {
    const volumeId = volume.value.metadata.id;
    const key = snapshotKey(volumeId, id);
    const owner = volumeKey(volumeId);
    const { succeeded, revision } = await this.#store.transact({
      compare: [
        { key: owner, modRevision: volume.modRevision },
        { key, modRevision: 0 },
        ...more.compare,
      ],
      operations: [
        { type: 'put', key: owner, value: encodeRecord(volume.value) },
        { type: 'put', key, value: encodeRecord(record) },
        ...more.operations,
      ],
    });
    return succeeded ? revision : null;
  }

  async #volume(nameOrId: string): Promise<string> {
    const found = await readSoon((options) => findVolume(this.#store, nameOrId, options));
    return found.value.metadata.id;
  }

  /** The records are read before and after: what is taken or deleted meanwhile is named by one. */
  async #look(
    only: string | null,
  ): Promise<{ volume: Versioned<StoredVolume>; orphans: OrphanSnapshot[] }[]> {
    const before = await readSoon((options) => readState(this.#store, options));
    const volumes = [...before.volumes.values()].filter(
      ({ value }) => only === null || value.metadata.id === only,
    );
    const said = await this.#spaces.said(
      volumes.map(({ value }) => value),
      before,
    );
    const after = await readSoon((options) => readState(this.#store, options));
    volumes.sort((a, b) => (a.value.metadata.name < b.value.metadata.name ? -1 : 1));
    return volumes.map((volume) => {
      const { id: volumeId } = volume.value.metadata;
      const orphans = orphansOf(
        volume.value,
        said,
        (id) =>
          before.snapshots.get(volumeId)?.has(id) === true ||
          after.snapshots.get(volumeId)?.has(id) === true,
      );
      return { volume, orphans };
    });
  }
}
