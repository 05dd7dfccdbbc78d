import { createHash, randomBytes } from 'node:crypto';
import { openApiClient, type ApiClient } from '@stor/protocol';
import { NbdClient } from 'nbd-client-js';
import { prefill, runFio } from '../../fio/fio.ts';
import type { TestCluster } from '../../harness/test-cluster.ts';
import { waitFor } from '../../harness/wait-for.ts';
import { runRounds, summarise, type Workload } from '../../measure/rounds.ts';
import { createStorVolume } from '../../servers/stor-volume.ts';
import { onLoopback, type StoreStage } from './stage.ts';

const MiB = 1024 * 1024;
const blockBytes = 4096;
const sizeBytes = 64 * MiB;
/** blocks written between two snapshots, anywhere */
const writesBetween = 4;
const readBytes = 1 * MiB;
const secondsPerSample = 3;
/** snapshots taken under load, and the longest pause that one may make (ms) */
const underLoad = 20;
const maxPauseMs = 100;
/** dropped snapshots are given back in the background (ms) */
const reclaimDeadlineMs = 300_000;

const reads: Workload = {
  name: '4 KiB random read, QD 32',
  options: { rw: 'randread', bs: '4k', iodepth: '32' },
};

interface Taken {
  name: string;
  hash: string;
}

/**
 * A thousand snapshots on one volume: what they cost a reader, how long taking one pauses clients, and
 * that those which stay are byte-true when the middle half is deleted.
 */
export async function snapshots(stage: StoreStage): Promise<void> {
  await onLoopback(stage, { nodes: 3 }, async (cluster) => {
    const api = openApiClient({ endpoints: cluster.endpoints.split(',') });
    try {
      await run(stage, cluster, api);
    } finally {
      await api.close();
    }
  });
}

async function run(stage: StoreStage, cluster: TestCluster, api: ApiClient): Promise<void> {
  const count = stage.quick ? 100 : 1_000;
  const plain = { ...(await createStorVolume(cluster, 'plain', sizeBytes, 3)), name: 'none' };
  const many = { ...(await createStorVolume(cluster, 'many', sizeBytes, 3)), name: 'many' };
  await prefill(plain.uri, sizeBytes, '4k', stage.dir);
  const taken = await takeMany(stage, api, many.uri, count);

  const samples = await runRounds({
    ...{ servers: [plain, many], workloads: [reads], rounds: stage.rounds, sizeBytes },
    ...{ runtimeSeconds: stage.quick ? 1 : secondsPerSample, dir: stage.dir },
  });
  const none = summarise(samples, reads.name, 'none').iops.median;
  const with1000 = summarise(samples, reads.name, 'many').iops.median;
  const slower = 1 - with1000 / none;
  stage.report.add(
    `4 KiB random read, QD 32, ${count} snapshots against none (${stage.rounds} rounds)`,
    `${with1000.toFixed(0)} and ${none.toFixed(0)} IOPS: ${(slower * 100).toFixed(1)} % slower`,
    'at most 15 % slower',
    slower <= 0.15,
  );
  await pauses(stage, api, plain.uri);
  await deleteMiddle(stage, cluster, api, taken);
}

/** Fills the volume, then overwrites a little before each snapshot; a model says what each one holds. */
async function takeMany(
  { report }: StoreStage,
  api: ApiClient,
  uri: string,
  count: number,
): Promise<Taken[]> {
  const model = randomBytes(sizeBytes);
  const client = await NbdClient.connect({ uri });
  const taken: Taken[] = [];
  let longestMs = 0;
  try {
    for (let at = 0; at < sizeBytes; at += MiB)
      await client.write(at, model.subarray(at, at + MiB));
    for (let i = 0; i < count; i++) {
      const pieces = randomBytes(writesBetween * blockBytes);
      for (let w = 0; w < writesBetween; w++) {
        const at = Math.floor(Math.random() * (sizeBytes / blockBytes)) * blockBytes;
        const piece = pieces.subarray(w * blockBytes, (w + 1) * blockBytes);
        model.set(piece, at);
        await client.write(at, piece);
      }
      const name = `s${String(i).padStart(4, '0')}`;
      const made = await api.createSnapshot({ volume: 'many', selector: {}, name, labels: {} });
      for (const one of made.snapshots) longestMs = Math.max(longestMs, one.status.pausedMs);
      taken.push({ name, hash: createHash('sha256').update(model).digest('hex') });
    }
    await client.flush();
  } finally {
    await client.disconnect();
  }
  report.add(
    `longest pause of ${count} snapshots beside one writer`,
    `${longestMs.toFixed(1)} ms`,
    `< ${maxPauseMs} ms`,
    longestMs < maxPauseMs,
  );
  return taken;
}

/** What clients under full load see when snapshots are taken. */
async function pauses(stage: StoreStage, api: ApiClient, uri: string): Promise<void> {
  const options = { rw: 'randwrite', bs: '4k', iodepth: '16', time_based: '1', runtime: '20' };
  const load = runFio({
    uri,
    dir: stage.dir,
    options: { ...options, size: String(sizeBytes), norandommap: '1' },
  });
  let longestMs = 0;
  for (let i = 0; i < underLoad; i++) {
    const name = `load${i}`;
    const made = await api.createSnapshot({ volume: 'plain', selector: {}, name, labels: {} });
    for (const one of made.snapshots) longestMs = Math.max(longestMs, one.status.pausedMs);
  }
  const result = await load;
  stage.report.add(
    `longest pause of ${underLoad} snapshots under 4 KiB random writes, QD 16`,
    `${longestMs.toFixed(1)} ms; clients: error ${result.error}, ${result.write.iops.toFixed(0)} IOPS with copies on write`,
    `< ${maxPauseMs} ms, no error`,
    longestMs < maxPauseMs && result.error === 0,
  );
}

async function deleteMiddle(
  { report }: StoreStage,
  cluster: TestCluster,
  api: ApiClient,
  taken: readonly Taken[],
): Promise<void> {
  const quarter = Math.floor(taken.length / 4);
  const held = async (): Promise<number> =>
    (await cluster.inspect('many')).status.space?.snapshotBytes ?? 0;
  const heldBefore = await held();
  const gone = taken.slice(quarter, taken.length - quarter);
  const rest = taken.filter((one) => !gone.includes(one));
  for (const { name } of gone) await api.deleteSnapshot({ name: `many@${name}` });
  await waitFor(
    'the deleted snapshots to be gone',
    async () => {
      const { snapshots: listed } = await api.listSnapshots({ volume: 'many' });
      return listed.length === rest.length ? listed : null;
    },
    { deadlineMs: reclaimDeadlineMs },
  );
  let wrong = 0;
  for (const one of rest) if ((await hashOf(cluster, `many@${one.name}`)) !== one.hash) wrong += 1;
  report.add(
    `${rest.length} snapshots after the middle ${gone.length} were deleted`,
    `${wrong} differ from what was written before each`,
    '0',
    wrong === 0,
  );
  const live = await hashOf(cluster, 'many');
  const last = taken.at(-1)?.hash;
  report.add('the live volume', live === last ? 'equal' : 'differs', 'equal', live === last);
  const heldAfter = await held();
  report.add(
    'held by snapshots only, before and after (each replica)',
    `${(heldBefore / MiB).toFixed(0)} MiB, ${(heldAfter / MiB).toFixed(0)} MiB`,
    'less',
    heldAfter < heldBefore,
  );
}

async function hashOf(cluster: TestCluster, name: string): Promise<string> {
  const client = await NbdClient.connect({ uri: cluster.unixUri(0, name) });
  const hash = createHash('sha256');
  try {
    for (let at = 0; at < sizeBytes; at += readBytes) hash.update(await client.read(at, readBytes));
  } finally {
    await client.disconnect();
  }
  return hash.digest('hex');
}
