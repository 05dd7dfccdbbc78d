import type { VolumeId } from '@stor/protocol';

/** Volumes whose last epoch here is remembered after its end; the oldest are forgotten first. */
const maxEndedEpochs = 65_536;

/** Highest epoch given back, per volume: nothing may be served under it again (I6). */
export class EndedEpochs {
  readonly #ended = new Map<VolumeId, number>();

  /** 0 when none is known */
  of(volumeId: VolumeId): number {
    return this.#ended.get(volumeId) ?? 0;
  }

  note(volumeId: VolumeId, epoch: number): void {
    const highest = Math.max(epoch, this.of(volumeId));
    this.#ended.delete(volumeId);
    this.#ended.set(volumeId, highest);
    if (this.#ended.size <= maxEndedEpochs) return;
    for (const oldest of this.#ended.keys()) {
      this.#ended.delete(oldest);
      break;
    }
  }
}
