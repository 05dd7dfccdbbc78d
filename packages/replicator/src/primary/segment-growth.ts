import {
  StorError,
  segmentCount,
  segmentSizeBytes,
  type AttachmentGrant,
  type VolumeSettings,
} from '@stor/protocol';

import { activateAll } from './activate-all.ts';
import type { MakeSegment, SegmentPrimary } from './segmented-volume.ts';

/** What a volume must become before it may show a larger size. */
export interface GrowthTarget {
  grant: AttachmentGrant;
  segmentBytes: number;
  /** engines that serve */
  present: readonly SegmentPrimary[];
  make: MakeSegment;
}

/**
 * A larger size of the record on its way into the device: the primaries of added segments are
 * activated, and those that were there have larger replicas (their own `update` sees to that). The
 * device grows after all of it, so it is never larger than its replicas.
 */
export class SegmentGrowth {
  readonly sizeBytes: number;
  readonly added: SegmentPrimary[] = [];
  readonly #target: GrowthTarget;
  readonly #abort = new AbortController();
  #isServing = false;
  /** it cannot be done now: whoever says the size again begins anew */
  failure: StorError | null = null;

  constructor(target: GrowthTarget, settings: VolumeSettings, sizeBytes: number) {
    this.#target = target;
    this.sizeBytes = sizeBytes;
    const { present, segmentBytes, grant, make } = target;
    for (let at = present.length; at < segmentCount(sizeBytes, segmentBytes); at++) {
      const segment = settings.segments.find(({ index }) => index === at);
      if (!segment) {
        this.failure = new StorError('INTERNAL', `segment ${at} of the larger volume is missing`);
        break;
      }
      const granted = {
        ...grant,
        ...settings,
        sizeBytes: segmentSizeBytes(sizeBytes, segmentBytes, at),
        segments: [segment],
        // it was added under this attachment: no other primary has had it, and nothing was lost
        previousReleased: true,
        acceptUnflushedLoss: false,
      };
      this.added.push(make(granted, at));
    }
    void this.#activate();
  }

  /** Everything is as large as the device is to be. */
  get isReady(): boolean {
    const { present, segmentBytes } = this.#target;
    return (
      this.#isServing &&
      this.failure === null &&
      present.every(
        (engine, index) =>
          engine.sizeBytes >= segmentSizeBytes(this.sizeBytes, segmentBytes, index),
      )
    );
  }

  /** The volume is over, or this cannot be done. */
  end(reason: StorError): void {
    this.failure ??= reason;
    this.#abort.abort();
    for (const engine of this.added) engine.finish(reason);
  }

  async #activate(): Promise<void> {
    try {
      await activateAll(this.added, this.#abort.signal).served;
      this.#isServing = true;
    } catch (error) {
      this.end(StorError.from(error));
    }
  }
}
