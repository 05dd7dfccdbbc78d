import { defaultPolicy } from '@stor/protocol';
import { silentLogger } from '@stor/runtime';
import { FakeClock, SeededRandom } from '@stor/runtime/testing';
import t, { type Test } from 'tap';
import type { AgentPeers } from '../src/agent/agent-peers.ts';
import { Attachments } from '../src/agent/attachments.ts';
import { emptyState } from '../src/resources/cluster-state.ts';
import { readVolume } from '../src/resources/find.ts';
import { volumeKey } from '../src/resources/keys.ts';
import { encodeRecord } from '../src/resources/records.ts';
import type { StoredVolume } from '../src/resources/records.ts';
import type { StateCache } from '../src/resources/state-cache.ts';
import { FakeAgent } from '../src/testing/fake-agent.ts';
import { MemoryCluster } from '../src/testing/memory-cluster.ts';

const id = 'v-0000000000000001';
const proposal = { volumeId: id, segment: 0, epoch: 4, setRevision: 7, inSync: ['r-1'] };

/** Attached on n-1 at the epoch, with two members. */
function volumeAt(epoch: number, setRevision: number): StoredVolume {
  const replicas = ['r-1', 'r-2'].map((replica) => {
    return { id: replica, nodeId: 'n-1', diskId: 'd-1', state: 'ready' as const };
  });
  const attachment = {
    nodeId: 'n-1',
    agentInstance: 'a',
    epoch,
    mode: 'auto' as const,
    sinceMs: 0,
  };
  return {
    metadata: { id, name: 'db', labels: {}, createdAtMs: 0, resourceVersion: 0 },
    spec: { sizeBytes: 4096, replicas: 2, policy: defaultPolicy(2) },
    status: {
      phase: 'ready',
      message: '',
      epoch,
      attachment,
      cleanRelease: false,
      segments: [{ index: 0, setRevision, replicas, inSync: ['r-1', 'r-2'] }],
    },
    requestId: '',
    failure: null,
  };
}

/** A member that sees `seen`, while the store holds `stored` as a later change. */
async function memberWith(t: Test, seen: StoredVolume, stored: StoredVolume) {
  const clock = new FakeClock();
  const cluster = new MemoryCluster({ ids: ['n-1'], clock, random: new SeededRandom(1) });
  t.teardown(() => cluster.close());
  const store = cluster.store('n-1');
  const put = async (record: StoredVolume): Promise<void> => {
    const operation = { type: 'put' as const, key: volumeKey(id), value: encodeRecord(record) };
    await store.transact({ compare: [], operations: [operation] });
  };
  await put(seen);
  const old = await readVolume(store, id);
  await put(stored);
  const state = emptyState();
  if (old) state.volumes.set(id, old);
  const attachments = new Attachments({
    store,
    cache: { state } as unknown as StateCache,
    clock,
    logger: silentLogger,
    agent: new FakeAgent(),
    peers: {} as AgentPeers,
    nodeId: 'n-1',
    agentInstance: 'a',
    closing: new AbortController().signal,
  });
  const recorded = async (): Promise<StoredVolume['status'] | undefined> =>
    (await readVolume(store, id))?.value.status;
  return { attachments, recorded };
}

t.test('an older view never commits a set that the store does not have (I4)', async (t) => {
  const renamed = {
    ...volumeAt(4, 7),
    metadata: { ...volumeAt(4, 7).metadata, labels: { a: 'b' } },
  };
  const { attachments, recorded } = await memberWith(t, volumeAt(4, 7), renamed);
  t.match(await attachments.proposeSet(proposal), { outcome: 'committed', setRevision: 8 });
  t.match(await recorded(), { segments: [{ setRevision: 8, inSync: ['r-1'] }] });
});

t.test('an older view does not let an epoch that is over change the set (I2, I4)', async (t) => {
  const { attachments, recorded } = await memberWith(t, volumeAt(4, 7), volumeAt(5, 7));
  t.match(await attachments.proposeSet(proposal), { outcome: 'superseded' });
  t.match(await recorded(), { epoch: 5, segments: [{ setRevision: 7, inSync: ['r-1', 'r-2'] }] });
});

t.test('what an older view refuses is asked of the store', async (t) => {
  const { attachments, recorded } = await memberWith(t, volumeAt(3, 6), volumeAt(4, 7));
  t.match(await attachments.proposeSet(proposal), { outcome: 'committed', setRevision: 8 });
  t.match(await recorded(), { segments: [{ setRevision: 8, inSync: ['r-1'] }] });
});
