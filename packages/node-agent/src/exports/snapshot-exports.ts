import type { NamedSnapshot, SnapshotExport } from '@stor/control-plane';
import {
  StorError,
  hasCode,
  segmentSizeBytes,
  splitSnapshotName,
  type SnapshotName,
} from '@stor/protocol';
import {
  FailoverSnapshotReader,
  SegmentedSnapshotReader,
  type SnapshotReader,
  type SnapshotSource,
} from '@stor/replicator';
import type { Clock, Logger } from '@stor/runtime';
import type { MainMethods } from '../lane/lane-protocol.ts';
import { provenName, type NbdExportLease, type NbdPeer } from '../nbd/nbd-exports.ts';
import { SnapshotDevice } from './snapshot-device.ts';

/** A replica that may have a snapshot, as the control plane names it. */
export type SnapshotReplicaAddress = SnapshotExport['segments'][0]['replicas'][0];

export interface SnapshotExportsOptions {
  nodeId: string;
  control: Pick<MainMethods, 'snapshotExport' | 'snapshotIds'>;
  clock: Clock;
  logger: Logger;
  /** how a replica's snapshot is read, here or on another node */
  source: (
    replica: SnapshotReplicaAddress,
    snapshot: {
      volumeId: string;
      segment: number;
      snapshotId: string;
      sizeBytes: number;
      offsetBytes: number;
    },
  ) => SnapshotSource;
}

/**
 * Snapshots as exports, `db@monday`: read-only, and from any replica that has them ready, this
 * node's first. The volume's primary takes no part: it may be anywhere, or nowhere.
 */
export class SnapshotExports {
  readonly #options: SnapshotExportsOptions;
  readonly #open = new Set<{ end: () => void }>();

  constructor(options: SnapshotExportsOptions) {
    this.#options = options;
  }

  /** Null for the name of a volume. */
  static nameOf(exportName: string): SnapshotName | null {
    return splitSnapshotName(exportName);
  }

  /** NOT_FOUND. */
  async sizeOf(name: SnapshotName): Promise<number> {
    return (await this.#find(name)).sizeBytes;
  }

  async open(exportName: string, name: SnapshotName, peer: NbdPeer): Promise<NbdExportLease> {
    const { logger } = this.#options;
    const found = await this.#find(name);
    const since = await this.#named(name.volume);
    const reader = await this.#reader(found);
    const listeners: (() => void)[] = [];
    let isOver = false;
    const end = (): void => {
      if (isOver) return;
      isOver = true;
      for (const listener of listeners) listener();
    };
    const device = new SnapshotDevice(exportName, reader, (reason) => {
      logger.warn({ snapshot: exportName, remote: peer.remote }, reason.message);
      end();
    });
    // the first read is to know it already
    device.holeBytes(0, 0);
    const entry = { end };
    this.#open.add(entry);
    const who = { remote: peer.remote, as: provenName(peer) };
    logger.info({ snapshot: exportName, ...who }, 'client connected');
    return {
      device,
      readOnly: true,
      changedSince: (snapshot, offset, length, limit, done) => {
        const base = since.get(snapshot);
        if (!base) done(unknownSnapshot(name.volume, snapshot), []);
        else if (offset >= segmentsEnd(base.sizeBytes, found.segmentBytes)) {
          // the volume was too small then to have the segment: all that is in it is new
          reader.extents(offset, length, limit, (error, extents) => {
            done(
              error,
              extents.map(({ allocated, ...range }) => ({ ...range, dirty: allocated })),
            );
          });
        } else reader.changedSince(base.id, offset, length, limit, done);
      },
      name: exportName,
      volumeId: found.volumeId,
      isRelay: false,
      release: () => {
        this.#open.delete(entry);
        reader.close();
      },
      onRevoked: (listener) => {
        if (isOver) listener();
        else listeners.push(listener);
      },
    };
  }

  /** Ids of the volume's ready snapshots by name. NOT_FOUND (the volume). */
  async idsOf(volume: string): Promise<Map<string, string>> {
    const named = await this.#named(volume);
    return new Map([...named].map(([name, { id }]) => [name, id]));
  }

  async #named(volume: string): Promise<Map<string, NamedSnapshot>> {
    const all = await this.#options.control.snapshotIds(volume);
    return new Map(all.map((each) => [each.name, each]));
  }

  /** What was started is answered, then each connection ends. */
  close(): void {
    for (const { end } of [...this.#open]) end();
  }

  #find({ volume, snapshot }: SnapshotName): Promise<SnapshotExport> {
    return this.#options.control.snapshotExport({ volume, snapshot });
  }

  async #reader(found: SnapshotExport): Promise<SnapshotReader> {
    const { sizeBytes, segmentBytes, segments } = found;
    const readers: FailoverSnapshotReader[] = [];
    for (const { index, replicas } of segments) {
      const size = segmentSizeBytes(sizeBytes, segmentBytes, index);
      // segments that came by a resize are no part of an older snapshot
      if (size > 0) readers.push(this.#segmentReader(found, index, size, replicas));
    }
    try {
      await Promise.all(readers.map((reader) => reader.ready()));
    } catch (error) {
      for (const reader of readers) reader.close();
      if (!hasCode(error, 'NOT_FOUND')) throw error;
      const message = `no replica has snapshot ${found.name} any more`;
      throw new StorError('NOT_FOUND', message, { cause: error });
    }
    const [only] = readers;
    if (readers.length === 1 && only) return only;
    return new SegmentedSnapshotReader(readers, segmentBytes, sizeBytes);
  }

  #segmentReader(
    { volumeId, snapshotId, segmentBytes }: SnapshotExport,
    segment: number,
    sizeBytes: number,
    replicas: readonly SnapshotReplicaAddress[],
  ): FailoverSnapshotReader {
    const { nodeId, clock, logger, source } = this.#options;
    const snapshot = { volumeId, segment, snapshotId };
    const isHere = (replica: SnapshotReplicaAddress): number => (replica.nodeId === nodeId ? 0 : 1);
    const ordered = [...replicas].sort((a, b) => isHere(a) - isHere(b));
    return new FailoverSnapshotReader({
      sources: ordered.map((replica) =>
        source(replica, { ...snapshot, sizeBytes, offsetBytes: segment * segmentBytes }),
      ),
      sizeBytes,
      clock,
      logger,
    });
  }
}

/** Where the last segment of a volume of this size ends. */
function segmentsEnd(sizeBytes: number, segmentBytes: number): number {
  return Math.ceil(sizeBytes / segmentBytes) * segmentBytes;
}

export function unknownSnapshot(volume: string, snapshot: string): StorError {
  return new StorError('NOT_FOUND', `volume ${volume} has no snapshot ${snapshot} any more`);
}
