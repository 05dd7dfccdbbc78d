import { type DiskId, type ReplicaId, StorError } from '@stor/protocol';
import { HotBlocks } from '../core/store/block-cache.ts';
import { LayerImage } from '../core/store/layer-image.ts';
import { LineageTables } from '../core/store/lineage-tables.ts';
import type { ReplicaTables } from '../core/store/replica-tables.ts';
import type { SumsCache } from '../core/store/sums-cache.ts';
import { DiskReplica } from './disk-replica.ts';
import type { IoPool } from './io-pool.ts';
import type { Journal } from './journal.ts';
import { LayerJanitor } from './layer-janitor.ts';
import { Lineage } from './lineage.ts';
import type { LineageFiles } from './lineage-directory.ts';
import type { OpenDiskStore } from './open-disk-store.ts';
import type { RecoveredReplica } from './recovery.ts';
import { ReplicaFailure } from './replica-failure.ts';
import type { SpaceAccount } from './space-account.ts';
import type { TableFile } from './table-file.ts';

const defaultHotRegions = 16_384;

export interface Member {
  replica: DiskReplica;
  failure: ReplicaFailure;
  home: Home;
  /** null when its file could not be opened or its metadata are damaged */
  regionFile: TableFile | null;
}

/** A lineage and who tidies it. */
export interface Home {
  lineage: Lineage;
  janitor: LayerJanitor;
}

export interface DiskMembersParts {
  diskId: DiskId;
  open: OpenDiskStore;
  journal: Journal;
  pool: IoPool;
  space: SpaceAccount;
  sumsCache: SumsCache;
  maxRecordNumbers: number;
  diskFailed(): boolean;
  recordFailure(replicaId: ReplicaId | null, reason: string): void;
}

/** The replicas of a disk and the lineages that they live in. */
export class DiskMembers {
  /** until their deletion is durable */
  readonly all = new Map<ReplicaId, Member>();
  /** by the lineage's number */
  readonly homes = new Map<number, Home>();
  readonly #parts: DiskMembersParts;

  constructor(parts: DiskMembersParts) {
    this.#parts = parts;
  }

  addHome(tables: LineageTables, files: LineageFiles | null): Home {
    const lineage = new Lineage({
      ...{
        tables,
        files,
        journal: this.#parts.journal,
        pool: this.#parts.pool,
        space: this.#parts.space,
        clock: this.#parts.open.clock,
      },
      sumsCache: this.#parts.sumsCache,
      maxRecordNumbers: this.#parts.maxRecordNumbers,
      failed: (cause, step) => {
        for (const { failure } of this.of(tables.number)) failure[step](cause);
      },
    });
    const janitor = new LayerJanitor({
      lineage,
      pause: () => lineage.pause(),
      sync: () => this.#syncOf(lineage),
      failed: () => this.#parts.diskFailed() || !lineage.isWhole,
    });
    tables.cameLate = () => {
      janitor.kick();
    };
    const home = { lineage, janitor };
    this.homes.set(tables.number, home);
    return home;
  }

  /** For background work: a failure belongs to the replicas in it, as that of a flush does (I7). */
  async #syncOf(lineage: Lineage): Promise<void> {
    try {
      await lineage.sync();
    } catch (error) {
      for (const { failure } of this.of(lineage.number)) failure.sync(error);
      throw error;
    }
  }

  of(lineage: number): Member[] {
    return [...this.all.values()].filter((one) => one.home.lineage.number === lineage);
  }

  addRecovered(one: RecoveredReplica): void {
    const { identity } = one.tables;
    const home = this.homes.get(one.tables.lineage);
    let { damage } = one;
    let image: LayerImage | null = null;
    if (home && damage === null) {
      try {
        image = home.lineage.tables.openLive(one.tables.number, identity.sizeBytes);
      } catch (error) {
        damage = error instanceof Error ? error.message : String(error);
      }
    }
    const healthy = damage === null ? one.regionFile : null;
    if (!healthy) one.regionFile?.close();
    const ownHome = home ?? this.addHome(new LineageTables(one.tables.lineage, ''), null);
    ownHome.lineage.replicaCount += 1;
    const nothing = new LayerImage(0, identity.sizeBytes);
    const member = this.add(one.tables, ownHome, image ?? nothing, healthy);
    if (damage === null) return;
    one.tables.damage = damage;
    this.#parts.recordFailure(identity.replicaId, `metadata cannot be trusted: ${damage}`);
    member.failure.set(
      new StorError(
        'DISK_FAILED',
        `replica ${identity.replicaId} on disk ${this.#parts.diskId}: ${damage}; it must be rebuilt`,
      ),
    );
  }

  add(tables: ReplicaTables, home: Home, image: LayerImage, regionFile: TableFile | null): Member {
    const { open } = this.#parts;
    const { replicaId } = tables.identity;
    const failure = new ReplicaFailure(replicaId, this.#parts.diskId, (reason, cause) => {
      this.#parts.recordFailure(replicaId, reason);
      // they share its files: what was lost may have been theirs
      for (const other of this.of(tables.lineage)) {
        if (other.failure !== failure) other.failure.shared(reason, cause);
      }
    });
    const hotRegions = open.options?.hotRegions ?? defaultHotRegions;
    const { lineage, janitor } = home;
    const replica = new DiskReplica({
      ...{
        diskId: this.#parts.diskId,
        tables,
        lineage,
        image,
        janitor,
        regionFile,
        pool: this.#parts.pool,
      },
      space: this.#parts.space,
      journal: this.#parts.journal,
      hot: new HotBlocks(tables.regionCount, hotRegions),
      clock: open.clock,
      files: open.files,
      maxRecordNumbers: this.#parts.maxRecordNumbers,
      failure,
    });
    const member = { replica, failure, home, regionFile };
    this.all.set(replicaId, member);
    return member;
  }

  noteEarlierFailures(): void {
    for (const { replicaId, reason } of this.#parts.open.failures.failuresOf(this.#parts.diskId)) {
      const member = replicaId === null ? undefined : this.all.get(replicaId);
      member?.failure.set(
        new StorError(
          'DISK_FAILED',
          `replica ${replicaId ?? ''} on disk ${this.#parts.diskId} failed earlier: ${reason}; it must be rebuilt`,
        ),
      );
    }
  }

  /**
   * After an unclean stop the page cache may hold what could not be written: ask now. What was copied
   * on write counts from then on (without a host that went on it was dropped before).
   */
  async syncData(): Promise<void> {
    for (const { lineage } of this.homes.values()) {
      if (!lineage.isWhole) continue;
      const members = this.of(lineage.number);
      const healthy = members.find(({ failure }) => failure.error === null);
      if (!healthy) continue;
      lineage.slots.dirty = true;
      try {
        await lineage.slots.sync();
        lineage.settlePending();
      } catch (error) {
        // recorded, and it stays with all of them
        healthy.failure.sync(error);
      }
    }
  }

  /** Closing settles what was copied on write; where that was impossible its replica had failed. */
  checkSettled(): void {
    for (const { lineage } of this.homes.values()) {
      if (lineage.tables.pending.size === 0) continue;
      const error = new StorError(
        'DISK_FAILED',
        `disk ${this.#parts.open.path}: copies on write of lineage ${lineage.folder} were never synced; its replicas must be rebuilt`,
      );
      for (const { failure } of this.of(lineage.number)) failure.set(error);
    }
  }

  *slotUsage(): Iterable<{ slots: number; allocatedBytes: number }> {
    for (const { lineage } of this.homes.values()) yield lineage.usage;
  }

  /** Tables hold only what the journal has made durable, so their pages never run ahead of it. */
  async writeTables(lsn: number): Promise<void> {
    for (const { lineage } of [...this.homes.values()]) await lineage.writeTables(lsn);
    for (const { replica, regionFile } of [...this.all.values()]) {
      await regionFile?.writeDirty(replica.tables, lsn, this.#parts.pool);
    }
  }

  /** Nothing may be under way. */
  closeFiles(): void {
    for (const { regionFile } of this.all.values()) regionFile?.close();
    for (const { lineage } of this.homes.values()) lineage.close();
  }
}

/** Nothing of it is under way any more, and nothing begins. */
export async function stopHome({ janitor, lineage }: Home): Promise<void> {
  await janitor.stop();
  await lineage.supply.stop();
}
