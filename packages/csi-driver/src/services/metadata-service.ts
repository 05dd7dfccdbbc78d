import { checkId, invalid } from '../core/check-fields.ts';
import { csiError } from '../core/csi-error.ts';
import { theSnapshot } from '../find-object.ts';
import type { AllocatedRequest, DeltaRequest, MetadataPart } from '../messages.ts';
import type { ControllerContext } from './controller-context.ts';

/** Ranges in one message when the caller names no number: some 20 KiB. */
const usualResults = 1_000;

/** What sends one message; resolves when there is room for the next. */
export type Send = (message: object) => Promise<void>;

interface Walk {
  volumeId: string;
  /** '': an empty image */
  from: string;
  to: string;
  sizeBytes: number;
  startingOffset: number;
  maxResults: number;
}

/** Which bytes of a snapshot hold data, and which differ from another one; whole chunks. See csi.proto. */
export class MetadataService {
  readonly #context: ControllerContext;

  constructor(context: ControllerContext) {
    this.#context = context;
  }

  async getMetadataAllocated(
    request: AllocatedRequest,
    send: Send,
    signal: AbortSignal,
  ): Promise<void> {
    const { startingOffset, maxResults } = request;
    const id = checkId('snapshot_id', request.snapshotId);
    checkNumbers(request);
    const { spec } = await theSnapshot(this.#context.api, id, signal);
    const { volumeId, sizeBytes } = spec;
    await this.#walk(
      { volumeId, from: '', to: id, sizeBytes, startingOffset, maxResults },
      send,
      signal,
    );
  }

  async getMetadataDelta(request: DeltaRequest, send: Send, signal: AbortSignal): Promise<void> {
    const { startingOffset, maxResults } = request;
    const from = checkId('base_snapshot_id', request.baseSnapshotId);
    const to = checkId('target_snapshot_id', request.targetSnapshotId);
    checkNumbers(request);
    const { api } = this.#context;
    const base = await theSnapshot(api, from, signal);
    const target = await theSnapshot(api, to, signal);
    const { volumeId, sizeBytes } = target.spec;
    if (base.spec.volumeId !== volumeId) {
      throw invalid('base and target are snapshots of different volumes');
    }
    await this.#walk({ volumeId, from, to, sizeBytes, startingOffset, maxResults }, send, signal);
  }

  async #walk(walk: Walk, send: Send, signal: AbortSignal): Promise<void> {
    const { volumeId: volume, from, to, sizeBytes, startingOffset, maxResults } = walk;
    if (startingOffset >= sizeBytes) {
      throw csiError('OUT_OF_RANGE', `starting_offset is beyond the ${sizeBytes} bytes there are`);
    }
    const most = maxResults > 0 ? Math.min(maxResults, usualResults) : usualResults;
    let offset: number | null = startingOffset;
    while (offset !== null) {
      const order = { volume, from, to, offset };
      const { extents, nextOffset } = await this.#context.api.diffSnapshots(order, { signal });
      for (let at = 0; at < extents.length; at += most) {
        const blockMetadata = extents
          .slice(at, at + most)
          .map(({ offset: byteOffset, length }) => ({ byteOffset, sizeBytes: length }));
        const part: MetadataPart = {
          blockMetadataType: 'VARIABLE_LENGTH',
          volumeCapacityBytes: sizeBytes,
          blockMetadata,
        };
        await send(part);
        signal.throwIfAborted();
      }
      offset = nextOffset;
    }
  }
}

function checkNumbers({ startingOffset, maxResults }: AllocatedRequest | DeltaRequest): void {
  if (startingOffset < 0) throw invalid('starting_offset is negative');
  if (maxResults < 0) throw invalid('max_results is negative');
}
