import type { Clock } from '@stor/runtime/clock';
import { LatencyHistogram } from './core/latency-histogram.ts';
import type { NbdSession } from './nbd-session.ts';

/** What one client does for a while. */
export interface LoadShape {
  /** for people and programs: `4 KiB random read, QD 32` */
  name: string;
  kind: 'read' | 'write' | 'flush';
  order: 'random' | 'sequential';
  blockBytes: number;
  /** requests in flight */
  depth: number;
}

export interface LoadResult {
  name: string;
  requests: number;
  iops: number;
  bytesPerSecond: number;
  p50Us: number;
  p99Us: number;
  p999Us: number;
}

export interface LoadOptions {
  session: NbdSession;
  shape: LoadShape;
  durationMs: number;
  /** what is written, at least one block; nothing else of it matters */
  content: Uint8Array;
  clock: Clock;
  /** 0 up to, not including, 1 */
  random: () => number;
  signal: AbortSignal;
  onProgress: (doneMs: number) => void;
}

/**
 * Keeps `depth` requests in flight until the time is over, and waits for the last. `flush`: each
 * request is a write and a FLUSH after it, counted as one. Throws the first error of a request, when
 * no other is in flight any more.
 */
export async function runLoad(options: LoadOptions): Promise<LoadResult> {
  const { shape, clock, signal } = options;
  const latencies = new LatencyHistogram();
  const nextOffset = offsets(options);
  const startMs = clock.monotonicMs();
  const state = { failed: false, endMs: startMs };
  const oneAfterAnother = async (): Promise<void> => {
    for (;;) {
      const sentMs = clock.monotonicMs();
      if (state.failed || signal.aborted || sentMs - startMs >= options.durationMs) return;
      await request(options, nextOffset());
      state.endMs = clock.monotonicMs();
      latencies.record((state.endMs - sentMs) * 1_000);
      options.onProgress(Math.min(options.durationMs, state.endMs - startMs));
    }
  };
  const watched = (): Promise<void> =>
    oneAfterAnother().catch((error: unknown) => {
      state.failed = true;
      throw error;
    });
  const ends = await Promise.allSettled(Array.from({ length: shape.depth }, watched));
  signal.throwIfAborted();
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
  const seconds = Math.max(state.endMs - startMs, Number.EPSILON) / 1_000;
  const iops = latencies.count / seconds;
  return {
    ...{ name: shape.name, requests: latencies.count },
    ...{ iops, bytesPerSecond: iops * shape.blockBytes },
    p50Us: latencies.quantileUs(0.5),
    p99Us: latencies.quantileUs(0.99),
    p999Us: latencies.quantileUs(0.999),
  };
}

function offsets({ session, shape, random }: LoadOptions): () => number {
  const blocks = Math.floor(session.sizeBytes / shape.blockBytes);
  let next = 0;
  return () => {
    const block = shape.order === 'random' ? Math.floor(random() * blocks) : next++ % blocks;
    return block * shape.blockBytes;
  };
}

async function request({ session, shape, content }: LoadOptions, offset: number): Promise<void> {
  if (shape.kind === 'read') {
    await session.read(offset, shape.blockBytes);
    return;
  }
  await session.write(offset, content.subarray(0, shape.blockBytes));
  if (shape.kind === 'flush') await session.flush();
}
