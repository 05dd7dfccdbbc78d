import { defaultPolicy } from '@stor/protocol';
import type { Attachment } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import {
  decideAcquire,
  releaseAttachment,
  wantAt,
  wantedNode,
  wantNowhere,
} from '../src/core/controllers/attachment-rules.ts';
import { Controllers } from '../src/core/controllers/controllers.ts';
import {
  reattachBackoffMaxMs,
  reattachDelayMs,
} from '../src/core/controllers/wanted-attachments.ts';
import { emptyState } from '../src/resources/cluster-state.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import { decodeVolume, encodeRecord } from '../src/resources/records.ts';
import type { StoredVolume } from '../src/resources/records.ts';
import { planAt } from './plan-at.ts';

const nodeIds = ['a', 'b', 'c'];

function setUp(state: ClusterState, nodeId: string, agentInstance: string): void {
  const addresses = { api: 'h:1', http: 'h:2', peers: ['h:3'], nbd: ['h:4'], nbdUnix: [] };
  state.leases.set(nodeId, { modRevision: 1, value: { agentInstance, bootId: 'b', addresses } });
}

function put(state: ClusterState, volume: StoredVolume): void {
  state.volumes.set(volume.metadata.id, { value: volume, modRevision: 1 });
}

function volumeOn(spec: Partial<StoredVolume['spec']>): StoredVolume {
  const replicas = nodeIds.map((nodeId) => ({
    id: `r-${nodeId}`,
    nodeId,
    diskId: `d-${nodeId}`,
    state: 'ready' as const,
  }));
  return {
    metadata: { id: 'v-1', name: 'db', labels: {}, createdAtMs: 0, resourceVersion: 0 },
    spec: { sizeBytes: 4096, replicas: 3, policy: defaultPolicy(3), ...spec },
    status: {
      phase: 'ready',
      message: '',
      epoch: 0,
      attachment: null,
      cleanRelease: true,
      segments: [{ index: 0, setRevision: 1, replicas, inSync: replicas.map((r) => r.id) }],
    },
    requestId: '',
    failure: null,
  };
}

function held(nodeId: string, mode: Attachment['mode'], agentInstance = `i-${nodeId}`): Attachment {
  return { nodeId, agentInstance, epoch: 1, mode, sinceMs: 0 };
}

/** Times and nodes at which a leader asks while nothing changes. */
function asks(state: ClusterState, controllers: Controllers, fromMs: number, untilMs: number) {
  const seen: { atMs: number; nodeId: string; mode: string }[] = [];
  for (let nowMs = fromMs; nowMs <= untilMs; nowMs += 500) {
    for (const action of planAt(controllers, state, nowMs)) {
      if (action.type !== 'ask-attach') continue;
      const { nodeId, mode } = action;
      seen.push({ atMs: nowMs - fromMs, nodeId, mode });
    }
  }
  return seen;
}

t.test('the node that is wanted is asked after a while, with growing waits', async (t) => {
  const state = emptyState();
  for (const id of nodeIds) setUp(state, id, `i-${id}`);
  const volume = volumeOn({ attachTo: 'b' });
  put(state, volume);
  const controllers = new Controllers();
  const seen = asks(state, controllers, 0, 400_000);
  t.equal(seen[0]?.atMs, reattachDelayMs);
  const gaps = seen.slice(1).map(({ atMs }, i) => atMs - (seen[i]?.atMs ?? 0));
  t.same(gaps.slice(0, 6), [2_000, 4_000, 8_000, 16_000, 32_000, reattachBackoffMaxMs]);
  t.equal(Math.max(...gaps), reattachBackoffMaxMs);
  t.ok(seen.every(({ nodeId, mode }) => nodeId === 'b' && mode === 'manual'));

  setUp(state, 'b', 'i-b-2');
  t.equal(asks(state, controllers, 400_000, 403_000)[0]?.atMs, reattachDelayMs, 'started again');

  // held for a moment only: the waits go on growing
  volume.status.attachment = held('b', 'manual', 'i-b-2');
  t.same(asks(state, controllers, 404_000, 405_000), []);
  volume.status.attachment = null;
  const after = asks(state, controllers, 500_000, 520_000).map(({ atMs }) => atMs);
  t.same(after, [2_000, 6_000, 14_000]);
  volume.status.attachment = held('b', 'manual', 'i-b-2');
  t.same(asks(state, controllers, 600_000, 600_000 + reattachBackoffMaxMs), []);
  volume.status.attachment = null;
  const fresh = asks(state, controllers, 700_000, 705_000).map(({ atMs }) => atMs);
  t.same(fresh, [2_000, 4_000], 'held for long: they begin anew');
});

t.test('nobody is asked in vain, and nothing is taken away', async (t) => {
  const state = emptyState();
  for (const id of nodeIds) setUp(state, id, `i-${id}`);
  const volume = volumeOn({ attachTo: 'b' });
  put(state, volume);
  const controllers = new Controllers();
  for (const mode of ['auto', 'manual', 'repair'] as const) {
    volume.status.attachment = held('a', mode);
    t.same(asks(state, controllers, 0, 100_000), [], `held elsewhere: ${mode}`);
  }
  volume.status.attachment = held('a', 'auto', 'older');
  t.match(asks(state, controllers, 200_000, 203_000), [{ nodeId: 'b' }], 'the holder is dead');
  volume.status.attachment = null;
  state.leases.delete('b');
  t.same(asks(state, controllers, 300_000, 400_000), [], 'the node is down');
  setUp(state, 'b', 'i-b');
  for (const segment of volume.status.segments) segment.inSync = ['r-c'];
  state.leases.delete('c');
  t.same(asks(state, controllers, 500_000, 600_000), [], 'its data is down');
  setUp(state, 'c', 'i-c');
  volume.status.phase = 'creating';
  t.same(asks(state, controllers, 700_000, 700_000), [], 'it is not ready');
  volume.status.phase = 'ready';
  put(state, wantNowhere(volume));
  t.ok(
    asks(state, controllers, 800_000, 900_000).every(({ mode }) => mode === 'repair'),
    'detached',
  );

  const old = volumeOn({});
  old.status.attachment = held('b', 'manual', 'older');
  put(state, old);
  t.match(
    asks(state, controllers, 1_000_000, 1_003_000),
    [{ nodeId: 'b', mode: 'manual' }],
    'a record from before: its attachment tells',
  );
});

t.test('repair waits for the first try and no longer', async (t) => {
  const state = emptyState();
  for (const id of nodeIds) setUp(state, id, `i-${id}`);
  const volume = volumeOn({ attachTo: 'c' });
  for (const segment of volume.status.segments) segment.inSync = ['r-a'];
  put(state, volume);
  const controllers = new Controllers();
  const seen = asks(state, controllers, 0, 30_000);
  t.match(seen[0], { nodeId: 'c', mode: 'manual' });
  t.match(seen.find(({ mode }) => mode === 'repair')?.nodeId, 'a', 'the wanted one may be unable');
  volume.status.attachment = held('a', 'repair');
  t.same(asks(state, controllers, 30_000, 200_000), [], 'a repair is left alone');
  for (const segment of volume.status.segments) segment.inSync = ['r-a', 'r-b', 'r-c'];
  volume.status.attachment = null;
  t.match(asks(state, controllers, 200_000, 203_000), [{ nodeId: 'c', mode: 'manual' }]);
});

t.test('where it is wanted, an attachment is held whoever asks', async (t) => {
  const state = emptyState();
  const request = { nodeId: 'b', agentInstance: 'i-b', nowWallMs: 1 };
  const decide = (record: StoredVolume, mode: Attachment['mode'], onlyIfWanted = false) =>
    decideAcquire(record, null, { ...request, mode, onlyIfWanted });
  const wanted = volumeOn({ attachTo: 'b' });
  for (const mode of ['auto', 'repair', 'manual'] as const) {
    t.match(decide(wanted, mode), { type: 'grant', attachment: { mode: 'manual' } });
    t.match(decide(volumeOn({ attachTo: 'a' }), mode), { type: 'grant', attachment: { mode } });
  }
  t.match(decide(volumeOn({}), 'manual', true), {
    type: 'refuse',
    error: { code: 'FAILED_PRECONDITION' },
  });
  for (const nodeId of ['a', 'b']) {
    const holder = held(nodeId, 'auto');
    const record = { ...wanted, status: { ...wanted.status, attachment: holder } };
    setUp(state, nodeId, holder.agentInstance);
    const lease = state.leases.get(nodeId)?.value ?? null;
    const asked = { ...request, mode: 'manual' as const, onlyIfWanted: true };
    t.match(decideAcquire(record, lease, asked), { type: 'held' }, 'a holder that lives keeps it');
    t.match(decideAcquire(record, null, asked), { type: 'grant' }, 'a dead one does not');
  }
});

t.test('records', async (t) => {
  const { attachTo } = decodeVolume('k', encodeRecord(volumeOn({}))).spec;
  t.equal(attachTo, undefined, 'an older record');
  const future = volumeOn({});
  Object.assign(future.spec, { failureMode: 'soft' });
  const wanted = decodeVolume('k', encodeRecord(wantAt(future, 'b')));
  t.same(wanted.spec, { ...future.spec, attachTo: 'b' });
  t.same(wantNowhere(wanted).spec, future.spec, 'what a newer version wrote is kept');
});

type Step =
  | { type: 'order' | 'client' | 'die' | 'restart'; node: number }
  | { type: 'detach' | 'end' | 'ask' | 'look' };

t.test('orders hold and detach wins, any history', async () => {
  const step: fc.Arbitrary<Step> = fc.oneof(
    fc.record({
      type: fc.constantFrom<'order' | 'client' | 'die' | 'restart'>(
        'order',
        'client',
        'die',
        'restart',
      ),
      node: fc.nat(2),
    }),
    // the leader looks, and what it asked for arrives at some later time
    fc.record({ type: fc.constantFrom<'detach' | 'end' | 'ask' | 'look'>('look', 'ask', 'ask') }),
    fc.record({ type: fc.constantFrom<'detach' | 'end' | 'ask' | 'look'>('detach', 'end') }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const state = emptyState();
      for (const id of nodeIds) setUp(state, id, `${id}-0`);
      let record = volumeOn({});
      let wanted: string | null = null;
      let nowMs = 0;
      let starts = 0;
      const onTheWay: { nodeId: string; mode: Attachment['mode']; onlyIfWanted: boolean }[] = [];
      const controllers = new Controllers();
      const set = (next: StoredVolume | null): void => {
        record = next ?? record;
        put(state, record);
      };
      const acquire = (nodeId: string, mode: Attachment['mode'], onlyIfWanted: boolean) => {
        const lease = state.leases.get(nodeId)?.value;
        if (!lease) return false;
        const holder = record.status.attachment;
        const holderLease = holder ? (state.leases.get(holder.nodeId)?.value ?? null) : null;
        const { agentInstance } = lease;
        const request = { nodeId, agentInstance, mode, onlyIfWanted, nowWallMs: 0 };
        const decision = decideAcquire(record, holderLease, request);
        if (decision.type !== 'grant') return false;
        if (onlyIfWanted && holder && holderLease?.agentInstance === holder.agentInstance) {
          throw new Error('a controller took the volume from a living holder');
        }
        set(decision.record);
        return true;
      };
      const look = (): void => {
        nowMs += 1_000;
        for (const action of planAt(controllers, state, nowMs)) {
          if (action.type === 'ask-attach') onTheWay.push(action);
        }
      };
      const ask = (): boolean => {
        const asked = onTheWay.shift();
        if (!asked) return true;
        const granted = acquire(asked.nodeId, asked.mode, asked.onlyIfWanted);
        return !granted || asked.mode === 'repair' || asked.nodeId === wanted;
      };
      const end = (): void => {
        set(releaseAttachment(record, record.status.attachment?.epoch ?? 0, true));
      };
      set(record);
      for (const { type, ...rest } of steps) {
        const nodeId = nodeIds['node' in rest ? rest.node : 0] ?? '';
        if (type === 'look') look();
        else if (type === 'ask' && !ask()) return false;
        else if (type === 'end') end();
        else if (type === 'die') state.leases.delete(nodeId);
        else if (type === 'restart') setUp(state, nodeId, `${nodeId}-${++starts}`);
        else if (type === 'client') acquire(nodeId, 'auto', false);
        else if (type === 'detach') {
          wanted = null;
          set(wantNowhere(record));
          end();
        } else if (type === 'order' && acquire(nodeId, 'manual', false)) {
          wanted = nodeId;
          set(wantAt(record, nodeId));
        }
        if (wantedNode(record) !== wanted) return false;
      }
      for (const id of nodeIds) setUp(state, id, `${id}-${++starts}`);
      for (let i = 0; i < 200; i++) {
        look();
        if (!ask()) return false;
      }
      // every older process is dead now: what is wanted has come about, and nothing else
      const { attachment } = record.status;
      if (wanted === null) return attachment?.mode !== 'manual';
      return attachment?.nodeId === wanted && attachment.mode === 'manual';
    }),
    { numRuns: 500 },
  );
});
