import { parseArgs } from 'node:util';
import { replacementWaitMs } from '@stor/protocol';
import { Controllers } from '../core/controllers/controllers.ts';
import { SnapshotReader, snapshotPieces } from '../core/kv/kv-snapshot.ts';
import { encodeCommand } from '../core/kv/kv-command.ts';
import { KvState } from '../core/kv/kv-state.ts';
import { withAllSegments } from '../core/placement/place-segments.ts';
import { describeRebalance } from '../core/rebalance/describe-rebalance.ts';
import { begunRebalance, defaultRebalance } from '../core/rebalance/rebalance-record.ts';
import { applyChange, emptyState } from '../resources/cluster-state.ts';
import { readHosts } from '../resources/find.ts';
import { rootPrefix } from '../resources/keys.ts';
import { LargeCluster } from './large-cluster.ts';
import { largeRecords, volumeIdOf, type LargeShape } from './large-records.ts';

/**
 * What the control plane of a large cluster costs, on this machine: prints one JSON object of times
 * (ms of CPU) and sizes (bytes). Run with --expose-gc, or sizes in memory are too large.
 */
const { values } = parseArgs({
  options: {
    nodes: { type: 'string', default: '1000' },
    volumes: { type: 'string', default: '10000' },
  },
});
const shape = { nodes: Number(values.nodes), volumes: Number(values.volumes) };
const figures: Record<string, number> = { ...shape };

/** CPU of this process, garbage collection included: the machine may be busy with other things. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1_000;
}

async function timed<T>(name: string, run: () => T | Promise<T>): Promise<T> {
  const startMs = cpuMs();
  const value = await run();
  figures[name] = Math.round((cpuMs() - startMs) * 10) / 10;
  return value;
}

function heapBytes(): number {
  globalThis.gc?.();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/** The most that the process computed before it turned to something else (ms of CPU). */
async function longestTurn(name: string, run: () => Promise<void>): Promise<void> {
  let longestMs = 0;
  let lastMs = cpuMs();
  let isOver = false;
  const tick = (): void => {
    const nowMs = cpuMs();
    longestMs = Math.max(longestMs, nowMs - lastMs);
    lastMs = nowMs;
    if (!isOver) setImmediate(tick);
  };
  setImmediate(tick);
  await run();
  isOver = true;
  tick();
  figures[name] = Math.round(longestMs * 10) / 10;
}

/** All steps, of which a member does each in a turn of its own, and the longest of them (ms of CPU). */
async function longestStep<T>(
  longest: string,
  name: string,
  steps: Iterable<T>,
  take: (step: T) => void,
): Promise<void> {
  let longestMs = 0;
  await timed(name, () => {
    let lastMs = cpuMs();
    for (const step of steps) {
      take(step);
      const nowMs = cpuMs();
      longestMs = Math.max(longestMs, nowMs - lastMs);
      lastMs = nowMs;
    }
  });
  figures[longest] = Math.round(longestMs * 10) / 10;
}

/** As the store gives them. */
function* chunksOf(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 256 * 1024) yield bytes.subarray(at, at + 256 * 1024);
}

/** How large the log is that wrote all this, one record in each entry. */
function logBytesOf(records: LargeShape): number {
  let bytes = 0;
  let since = 0;
  for (const operation of largeRecords(records)) {
    const transaction = {
      compare: [{ key: operation.key, modRevision: 0 }],
      operations: [operation],
    };
    const request = { id: '0'.repeat(24), since: since++ };
    bytes += encodeCommand({ type: 'transact', request, transaction }).length;
  }
  return bytes;
}

async function measureStore(large: LargeCluster): Promise<void> {
  const { state } = large.cluster.machine;
  figures['storeKeys'] = state.list('').length;
  const image = await timed('snapshotImage', () => state.image());
  const pieces: Uint8Array[] = [];
  await longestStep('snapshotLongestPiece', 'snapshotEncode', snapshotPieces(image), (piece) => {
    pieces.push(piece);
  });
  const bytes = Buffer.concat(pieces);
  figures['snapshotBytes'] = bytes.length;
  const before = heapBytes();
  const restored = new KvState();
  const reader = new SnapshotReader();
  await longestStep('restoreLongestPiece', 'snapshotRead', chunksOf(bytes), (chunk) => {
    reader.add(chunk);
  });
  await timed('snapshotRestore', () => {
    restored.restore(reader.end());
  });
  figures['storeHeapBytes'] = heapBytes() - before;
  figures['logBytes'] = logBytesOf(shape);
  const decoded = emptyState();
  const items = restored.list(rootPrefix);
  await timed('decodeAll', () => {
    for (const item of items) applyChange(decoded, item);
  });
  figures['stateHeapBytes'] = heapBytes() - before - figures['storeHeapBytes'];
}

let replicas = 0;
const newReplicaId = (): string => `r-x${++replicas}`;

async function measurePlans(large: LargeCluster): Promise<void> {
  const { cache, clock } = large;
  const now = (): { monotonicMs: number; wallMs: number } => ({
    monotonicMs: clock.monotonicMs(),
    wallMs: clock.wallMs(),
  });
  const controllers = new Controllers();
  await timed('planOfNewLeader', () => controllers.plan(cache.state, now(), newReplicaId));
  figures['newLeader'] = Math.round(
    (figures['startOfCache'] ?? 0) + (figures['planOfNewLeader'] ?? 0),
  );
  await timed('planAgain', () => controllers.plan(cache.state, now(), newReplicaId));
  const id = volumeIdOf(1);
  const volume = cache.state.volumes.get(id);
  if (volume) cache.state.volumes.set(id, { ...volume, value: { ...volume.value } });
  await timed('planOfOneChange', () => controllers.plan(cache.state, now(), newReplicaId));
}

/** Volumes that are placed one after the other, each as though it was the only request. */
const placedVolumes = 20;

/** What the place of one new volume costs, and what the next move of a rebalance costs the leader. */
async function measurePlaces({ cache, store, clock }: LargeCluster): Promise<void> {
  const known = cache.state.volumes.get(volumeIdOf(3))?.value;
  if (!known) throw new Error('the volume to place another one like is gone');
  const places = async (): Promise<void> => {
    for (let i = 0; i < placedVolumes; i += 1) {
      const { volumes, trash } = cache.state;
      const hosts = await readHosts(store, { local: true, known: cache.state });
      const metadata = { ...known.metadata, id: `v-new${i}`, name: `new${i}` };
      const status = { ...known.status, attachment: null, segments: [] };
      const record = { ...known, metadata, status };
      withAllSegments(record, { ...hosts, volumes, trash }, newReplicaId);
    }
  };
  // the first ones are slower: nothing is compiled yet
  await places();
  await timed('placeVolumes', places);
  figures['placeVolume'] = (figures['placeVolumes'] ?? 0) / placedVolumes;
  const nowWallMs = clock.wallMs();
  const settings = { ...defaultRebalance, bandPercent: 1 };
  const record = begunRebalance(null, { settings, nowWallMs });
  await timed('rebalancePlan', () => describeRebalance(cache.state, record, { isDryRun: true }));
}

async function measureLoss(large: LargeCluster): Promise<void> {
  const { revision } = large.cluster.machine.state;
  const clockMs = large.clock.monotonicMs();
  await timed('reconcile', async () => {
    await timed('loss', async () => {
      await large.lose(7);
      await large.quiet();
    });
    // a lost node is waited for, and the controllers look each second
    await timed('wait', () => {
      large.clock.advance(replacementWaitMs);
    });
    const left = await large.reconcile(7);
    if (left.length > 0) throw new Error(`${left.length} volumes still lie on the lost node`);
  });
  figures['reconcileClusterSeconds'] = Math.round((large.clock.monotonicMs() - clockMs) / 1_000);
  figures['reconcileRevisions'] = large.cluster.machine.state.revision - revision;
}

const large = await timed('fillStore', () => LargeCluster.open(shape));
await longestTurn('startLongestTurn', () => timed('startOfCache', () => large.quiet()));
if (large.state.volumes.size !== shape.volumes)
  throw new Error('the cache has not read everything');
await measureStore(large);
await measurePlans(large);
await measurePlaces(large);
await measureLoss(large);
await large.close();
figures['rssBytes'] = process.memoryUsage.rss();
process.stdout.write(`${JSON.stringify(figures, null, 2)}\n`);
