/** What the speed is said of (ms): long enough to be steady, short enough to follow the pace. */
const windowMs = 5_000;
/** Between two points of the window (ms). */
const pointMs = 250;

/** How far one replica's way back is: what `rebuild ls` shows. */
export class ResyncProgress {
  readonly startedMs: number;
  bytesTotal = 0;
  bytesRemaining = 0;
  bytesCopied = 0;
  #points: { atMs: number; doneBytes: number }[];

  constructor(nowMs: number) {
    this.startedMs = nowMs;
    this.#points = [{ atMs: nowMs, doneBytes: 0 }];
  }

  /** So much more is to be compared: the live image, or a snapshot before it. */
  planned(bytes: number): void {
    this.bytesTotal += bytes;
    this.bytesRemaining += bytes;
  }

  /** A range was compared, and some of it was copied. */
  done(bytes: number, copiedBytes: number, nowMs: number): void {
    this.bytesRemaining = Math.max(0, this.bytesRemaining - bytes);
    this.bytesCopied += copiedBytes;
    const last = this.#points[this.#points.length - 1];
    if (last && nowMs - last.atMs < pointMs) return;
    this.#points.push({ atMs: nowMs, doneBytes: this.bytesTotal - this.bytesRemaining });
    while (this.#points.length > 2 && nowMs - (this.#points[1]?.atMs ?? 0) >= windowMs) {
      this.#points.shift();
    }
  }

  /** Bytes compared per second over the last seconds; what is left divided by it is the rest. */
  bytesPerSecond(nowMs: number): number {
    const first = this.#points[0];
    if (!first) return 0;
    const doneBytes = this.bytesTotal - this.bytesRemaining - first.doneBytes;
    const spanMs = Math.max(nowMs - first.atMs, pointMs);
    return Math.round((doneBytes * 1_000) / spanMs);
  }
}
