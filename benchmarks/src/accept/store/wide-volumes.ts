import { NbdClient } from 'nbd-client-js';
import { seconds } from '../../harness/accept-report.ts';
import type { TestCluster } from '../../harness/test-cluster.ts';
import { waitFor } from '../../harness/wait-for.ts';
import { spreadOf } from '../../measure/statistics.ts';
import { onLoopback, type StoreStage } from './stage.ts';

const MiB = 1024 * 1024;
const nodes = 4;
const segmentBytes = 16 * MiB;
const widths = [8, 16, 64, 256];
/** with this many segments a snapshot may need more than one try on a busy machine */
const retriedWidth = 256;
/** A client's I/O pauses for at most so long (ms). */
const longestPauseMs = 100;
/** What orders for the widest volume may take on a busy machine. */
const patience = ['--timeout', '300s'];

/**
 * Volumes of many segments of three replicas on four agents of this machine, all disks on one file
 * system: how long a snapshot pauses I/O, and how long the volume takes to come, go and fail over.
 */
export async function wideVolumes(stage: StoreStage): Promise<void> {
  await onLoopback(stage, { nodes }, async (cluster) => {
    await cluster.waitFit();
    for (const width of widths) await measure(stage, cluster, width);
  });
}

async function measure(stage: StoreStage, cluster: TestCluster, width: number): Promise<void> {
  const { report, quick } = stage;
  const name = `wide${width}`;
  const timed = async (what: string, run: () => Promise<unknown>): Promise<void> => {
    const startMs = performance.now();
    await run();
    const value = seconds(performance.now() - startMs);
    report.add(`${width} segments: ${what}`, value, 'a number', true);
  };
  const must = (...args: string[]) => cluster.must(...args, ...patience);
  const shape = ['--size', String(width * segmentBytes), '--segment-size', String(segmentBytes)];
  await timed('create', () => must('volume', 'create', name, ...shape, '--replicas', '3'));
  await timed('attach', () => must('volume', 'attach', name, '--node', 'n1'));

  const client = await NbdClient.connect({ uri: cluster.tcpUri(0, name) });
  const touch = (byte: number): Promise<unknown> => {
    const bytes = Buffer.alloc(4096, byte);
    return Promise.all(
      Array.from({ length: width }, (_, i) => client.write(i * segmentBytes + byte * 4096, bytes)),
    );
  };
  await timed('first write to each', () => touch(1));
  await timed('flush', () => client.flush());

  const rounds = quick ? 3 : 9;
  const pauses: number[] = [];
  const totals: number[] = [];
  let failures = 0;
  for (let round = 0; round < rounds; round++) {
    await touch(2 + round);
    const startMs = performance.now();
    const result = await cluster.storctl('snapshot', 'create', `${name}@s${round}`, ...patience);
    totals.push(performance.now() - startMs);
    if (result.code !== 0) failures += 1;
    else {
      const text = await must('snapshot', 'inspect', `${name}@s${round}`, '-o', 'json');
      pauses.push((JSON.parse(text) as { status: { pausedMs: number } }).status.pausedMs);
    }
  }
  const { min, median, max } = spreadOf(pauses);
  report.add(
    `${width} segments: pause of a snapshot`,
    `${min.toFixed(0)}/${median.toFixed(0)}/${max.toFixed(0)} ms, ${failures} of ${rounds} failed`,
    `at most ${longestPauseMs} ms, none fails`,
    failures <= (width >= retriedWidth ? 1 : 0) && max <= longestPauseMs,
  );
  const total = spreadOf(totals);
  const all = [total.min, total.median, total.max].map(seconds).join(', ');
  report.add(`${width} segments: snapshot create as a whole`, all, 'numbers', true);
  await timed('delete of a snapshot, until it is gone', async () => {
    await must('snapshot', 'rm', `${name}@s0`, '--yes');
    await waitFor(
      'the snapshot to go',
      async () => {
        const text = await must('snapshot', 'ls', name, '-o', 'json');
        return !text.includes(`"s0"`);
      },
      { deadlineMs: 300_000, intervalMs: 200 },
    );
  });
  await client.disconnect();
  await timed('detach', () => must('volume', 'detach', name));
  await timed('delete, until its replicas are gone', async () => {
    await must('volume', 'rm', name, '--keep', '0', '--yes');
    await waitFor(
      'the replicas to go',
      async () => {
        const disks = JSON.parse(await must('disk', 'ls', '-o', 'json')) as DiskList;
        return disks.every(({ status }) => status.replicas === 0);
      },
      { deadlineMs: 300_000, intervalMs: 200 },
    );
  });
}

type DiskList = { status: { replicas: number } }[];
