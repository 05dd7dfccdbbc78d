import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { NbdClient } from 'nbd-client-js';
import type { TestCluster } from '../../harness/test-cluster.ts';
import { cpuTimeUs } from '../../measure/cpu-time.ts';

/** Resident memory of a process (MiB). */
export function residentMiB(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024;
}

export function openDescriptors(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

/** Bytes on disk below a folder (MiB). */
export function folderMiB(folder: string): number {
  let bytes = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) bytes += folderMiB(path) * 1024 ** 2;
    else bytes += statSync(path).blocks * 512;
  }
  return bytes / 1024 ** 2;
}

/** The value that this part of all does not exceed; nearest rank. */
export function percentile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(sorted.length * part) - 1)] ?? NaN;
}

/** Milliseconds that it takes. */
export async function timed(run: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await run();
  return performance.now() - startMs;
}

/** So many at a time; the time of each in ms. */
export async function eachTimed<T>(
  items: readonly T[],
  atOnce: number,
  run: (item: T) => Promise<unknown>,
): Promise<number[]> {
  const times: number[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    for (;;) {
      const item = items[next++];
      if (item === undefined) return;
      times.push(await timed(() => run(item)));
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, worker));
  return times;
}

/** CPU of each agent as a share of one core (percent), while nobody asks anything of them. */
export async function idlePercent(cluster: TestCluster, spanMs: number): Promise<number[]> {
  const before = cluster.agents.map(({ pid }) => cpuTimeUs(pid));
  const spentMs = await timed(() => delay(spanMs));
  return cluster.agents.map(
    ({ pid }, index) => (cpuTimeUs(pid) - (before[index] ?? 0)) / 10 / spentMs,
  );
}

/** Connects, reads the first block and leaves. */
export async function firstByte(uri: string): Promise<void> {
  const client = await NbdClient.connect({ uri });
  await client.read(0, 4096);
  await client.disconnect();
}

/** What `/metrics` of a node takes and gives. */
export async function scrape(
  cluster: TestCluster,
  index: number,
): Promise<{ ms: number; kib: number; lines: number }> {
  const { host, httpPort } = cluster.agent(index).place;
  let text = '';
  const ms = await timed(async () => {
    text = await (await fetch(`http://${host}:${httpPort}/metrics`)).text();
  });
  return { ms, kib: text.length / 1024, lines: text.split('\n').length };
}
