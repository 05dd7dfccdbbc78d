import { defaultPolicy, membersNeeded, StorError } from '@stor/protocol';
import type { Attachment } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import {
  changeMode,
  decideAcquire,
  decideSet,
  releaseAttachment,
} from '../src/core/controllers/attachment-rules.ts';
import {
  Controllers,
  createPatienceMs,
  repairBackoffMaxMs,
  repairDelayMs,
} from '../src/core/controllers/controllers.ts';
import { placeReplicas } from '../src/core/placement/place-replicas.ts';
import { describeVolume } from '../src/core/volume/describe-volume.ts';
import { grantOf, settingsOf } from '../src/core/volume/grant.ts';
import { splitAddress } from '../src/core/volume/lane-addresses.ts';
import { applyChange, emptyState } from '../src/resources/cluster-state.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import { snapshotKey, volumeKey } from '../src/resources/keys.ts';
import { decodeVolume, encodeRecord } from '../src/resources/records.ts';
import type { DiskRecord, NodeLeaseRecord, StoredVolume } from '../src/resources/records.ts';
import { apply, planAt } from './plan-at.ts';

const gib = 2 ** 30;
const addresses = { api: 'h:1', http: 'h:2', peers: ['h:3'], nbd: ['h:4'], nbdUnix: [] };

function addNode(
  state: ClusterState,
  id: string,
  node: {
    up?: boolean;
    disks?: ({ free: number; state?: string; id?: string } & Partial<DiskRecord>)[];
    instance?: string;
  },
): void {
  const agentInstance = node.instance ?? `i-${id}`;
  state.nodes.set(id, {
    modRevision: 1,
    value: {
      id,
      name: `name-${id}`,
      labels: {},
      createdAtMs: 0,
      addresses,
      agentInstance,
      bootId: 'b',
      version: '1',
    },
  });
  if (node.up ?? true) {
    state.leases.set(id, { modRevision: 1, value: { agentInstance, bootId: 'b', addresses } });
  }
  (node.disks ?? [{ free: 20 * gib }]).forEach(({ free, ...disk }, i) => {
    const diskId = disk.id ?? `d-${id}-${i}`;
    state.disks.set(diskId, {
      modRevision: 1,
      value: {
        nodeId: id,
        path: `/p${i}`,
        tag: '',
        createdAtMs: 0,
        state: 'online',
        message: '',
        capacityBytes: 100 * gib,
        usedBytes: 0,
        freeBytes: free,
        ...disk,
        id: diskId,
      },
    });
  });
}

function volumeOn(nodeIds: string[], change: Partial<StoredVolume['status']> = {}): StoredVolume {
  const replicas = nodeIds.map((nodeId) => ({
    id: `r-${nodeId}`,
    nodeId,
    diskId: `d-${nodeId}-0`,
    state: 'ready' as const,
  }));
  return {
    metadata: { id: 'v-1', name: 'db', labels: {}, createdAtMs: 0, resourceVersion: 0 },
    spec: {
      sizeBytes: gib,
      replicas: nodeIds.length,
      policy: defaultPolicy(nodeIds.length),
    },
    status: {
      phase: 'ready',
      message: '',
      epoch: 0,
      attachment: null,
      cleanRelease: true,
      segments: [{ index: 0, setRevision: 1, replicas, inSync: replicas.map((r) => r.id) }],
      ...change,
    },
    requestId: '',
    failure: null,
  };
}

function put(state: ClusterState, volume: StoredVolume): void {
  const { id, name } = volume.metadata;
  state.volumes.set(id, { value: volume, modRevision: 1 });
  state.names.set(name, { value: id, modRevision: 1 });
}

function messageOf(run: () => unknown): string {
  try {
    run();
    return 'no error';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

t.test('placement says why it cannot', async (t) => {
  const state = emptyState();
  t.equal(
    messageOf(() => placeReplicas(state, 1)),
    'FAILED_PRECONDITION: 1 replica needs a node, and the cluster has 0 nodes',
  );
  addNode(state, 'a', {});
  addNode(state, 'b', { up: false });
  addNode(state, 'c', { disks: [] });
  addNode(state, 'd', { disks: [{ free: 1024 ** 2 }] });
  addNode(state, 'e', { disks: [{ free: gib, state: 'failed' }] });
  t.same(placeReplicas(state, 1), [{ nodeId: 'a', diskId: 'd-a-0' }]);
  t.equal(
    messageOf(() => placeReplicas(state, 2)),
    'NO_SPACE: 2 replicas need as many nodes that are up and have a disk with room; 1 node qualifies: name-b is down; name-c has no disk; name-d has no disk with room (1MiB free); name-e has no disk that is online; delete volumes, add a disk ("storctl disk add"), or change the limits ("storctl pool set")',
  );
  t.match(
    messageOf(() => placeReplicas(state, 3)),
    /^FAILED_PRECONDITION/,
    'room would not be enough',
  );
  t.match(
    messageOf(() => placeReplicas(state, 6)),
    /^FAILED_PRECONDITION: 6 replicas .* the cluster has 5 nodes: ask for at most 5/,
  );
});

t.test('placement names the limit that a disk would break', async (t) => {
  const state = emptyState();
  addNode(state, 'a', { disks: [{ free: 9 * gib }] });
  const need = { kind: 'new' as const, sizeBytes: 30 * gib, fillBytes: 0, tag: '' };
  const refused = (change: Partial<typeof need> = {}): string =>
    messageOf(() => placeReplicas(state, 1, { ...need, ...change }));
  t.match(
    refused(),
    /^NO_SPACE: .*name-a has no disk with room \(9GiB free\), and 10GiB of them \(10%\) are kept to rebuild lost replicas; .*storctl pool set/,
  );
  state.settings = {
    value: { repairReservePercent: 5, overprovisionPercent: 100 },
    modRevision: 1,
  };
  t.match(refused(), 'no error');
  const volume = volumeOn(['a']);
  volume.spec.sizeBytes = 80 * gib;
  put(state, volume);
  t.match(
    refused(),
    /^NO_SPACE: .*name-a has no disk with room: 110GiB would be promised on \/p0, and 100GiB may be \(100% of its 100GiB\)/,
  );
  t.match(refused({ fillBytes: 9 * gib }), /\(9GiB free, and 9GiB are to be copied\)/);
  t.match(refused({ tag: 'ssd' }), /^FAILED_PRECONDITION: .*name-a has no disk with tag ssd$/);
  const disk = state.disks.get('d-a-0')?.value;
  if (!disk) throw new Error('no disk');
  Object.assign(disk, { evacuate: true });
  t.match(refused(), /name-a has only disk \/p0, which is being evacuated/);
  Object.assign(disk, { trouble: 'EIO' });
  t.match(refused(), /name-a has only disk \/p0, which had errors/);
});

t.test('placement against a stupid version', async () => {
  const mib = 1024 ** 2;
  const disk = fc.record({
    free: fc.integer({ min: 0, max: 40 }).map((n) => n * 16 * mib),
    state: fc.constantFrom('online', 'online', 'failed'),
    capacityBytes: fc.constantFrom(gib, 100 * gib),
    tag: fc.constantFrom('', 'ssd'),
    evacuate: fc.constantFrom(false, false, false, true),
  });
  const node = fc.record({ up: fc.boolean(), disks: fc.array(disk, { maxLength: 3 }) });
  const need = fc.record({
    kind: fc.constantFrom<'new' | 'repair'>('new', 'repair'),
    sizeBytes: fc.constantFrom(100 * mib, 900 * mib),
    fillBytes: fc.constantFrom(0, 0, 200 * mib),
    tag: fc.constantFrom('', '', 'ssd'),
  });
  const settings = fc.record({
    repairReservePercent: fc.constantFrom(0, 10),
    overprovisionPercent: fc.constantFrom(100, 1000),
  });
  fc.assert(
    fc.property(
      fc.array(node, { maxLength: 6 }),
      fc.integer({ min: 1, max: 4 }),
      fc.array(fc.tuple(fc.nat(5), fc.nat(2)), { maxLength: 4 }),
      need,
      settings,
      (nodes, replicas, promised, need, settings) => {
        const state = emptyState();
        state.settings = { value: settings, modRevision: 1 };
        nodes.forEach((facts, i) => {
          addNode(state, `n${i}`, facts);
        });
        promised.forEach(([n, d], i) => {
          const volume = volumeOn([`n${n}`]);
          volume.spec.sizeBytes = 100 * mib;
          for (const r of volume.status.segments[0]?.replicas ?? []) r.diskId = `d-n${n}-${d}`;
          state.volumes.set(`v-${i}`, { value: volume, modRevision: 1 });
        });
        const promisedOn = (id: string): number =>
          promised.filter(([n, d]) => `d-n${n}-${d}` === id).length * 100 * mib;
        const scoreOf = (id: string, free: number): number => free - promisedOn(id);
        const fits = (d: DiskRecord): boolean => {
          if (d.state !== 'online' || d.evacuate === true) return false;
          if (need.tag !== '' && d.tag !== need.tag) return false;
          const left = d.freeBytes - need.fillBytes;
          if (left <= Math.min(64 * mib, 0.05 * d.capacityBytes)) return false;
          if (need.kind === 'repair') return true;
          if (left <= Math.floor((d.capacityBytes * settings.repairReservePercent) / 100)) {
            return false;
          }
          const limit = Math.floor((d.capacityBytes / 100) * settings.overprovisionPercent);
          return promisedOn(d.id) + need.sizeBytes <= limit;
        };
        const best = new Map<string, { score: number; offered: number }>();
        for (const { value } of state.disks.values()) {
          if (!fits(value) || !state.leases.has(value.nodeId)) continue;
          const score = scoreOf(value.id, value.freeBytes);
          const known = best.get(value.nodeId);
          if (known && known.score >= score) continue;
          // 1 % of a disk decides nothing among a node's disks
          best.set(value.nodeId, { score, offered: score - 0.01 * value.capacityBytes });
        }
        if (best.size < replicas) {
          const text = messageOf(() => placeReplicas(state, replicas, need));
          return /^(FAILED_PRECONDITION|NO_SPACE): /.test(text);
        }
        const places = placeReplicas(state, replicas, need);
        const offers = [...best.values()].map(({ offered }) => offered).sort((a, b) => b - a);
        const wanted = offers.slice(0, replicas);
        const got = places.map((p) => {
          const found = state.disks.get(p.diskId)?.value;
          const { freeBytes = 0, capacityBytes = 0 } = found ?? {};
          const score = scoreOf(p.diskId, freeBytes);
          return { score, near: score + 0.01 * capacityBytes };
        });
        got.sort((a, b) => b.near - a.near);
        return (
          new Set(places.map((p) => p.nodeId)).size === replicas &&
          places.every((p) => state.disks.get(p.diskId)?.value.nodeId === p.nodeId) &&
          // nor among nodes
          got.length === wanted.length &&
          got.every(({ near }, i) => near >= (wanted[i] ?? 0))
        );
      },
    ),
    { numRuns: 500 },
  );
});

t.test('small differences of free space do not decide where replicas go', async (t) => {
  const state = emptyState();
  const mib = 1024 ** 2;
  // four disks on one file system, which others write to while the nodes report one after another
  ['a', 'b', 'c', 'd'].forEach((id, i) => {
    addNode(state, id, { disks: [{ free: 50 * gib - i * 200 * mib }] });
  });
  const need = { kind: 'new' as const, sizeBytes: 8 * mib, fillBytes: 0, tag: '' };
  const counts = new Map<string, number>();
  for (let i = 0; i < 8; i++) {
    const places = placeReplicas(state, 2, need);
    for (const { nodeId } of places) counts.set(nodeId, (counts.get(nodeId) ?? 0) + 1);
    const volume = volumeOn([]);
    const [segment] = volume.status.segments;
    volume.spec.sizeBytes = 8 * mib;
    segment?.replicas.push(
      ...places.map((place, r) => ({ id: `r-${i}-${r}`, ...place, state: 'ready' as const })),
    );
    state.volumes.set(`v-${i}`, { value: volume, modRevision: 1 });
  }
  t.same([...counts.values()], [4, 4, 4, 4]);
  addNode(state, 'e', { disks: [{ free: 52 * gib }] });
  const [first] = placeReplicas(state, 1, need);
  t.equal(first?.nodeId, 'e', 'more than 1 % of a disk does');
});

interface Claim {
  nodeId: string;
  instance: string;
  epoch: number;
  setRevision: number;
}

t.test('attachments and sets, any history', async (t) => {
  const nodeIds = ['a', 'b', 'c'];
  const op = fc.oneof(
    fc.record({
      type: fc.constant('acquire' as const),
      node: fc.nat(2),
      mode: fc.constantFrom<Attachment['mode']>('auto', 'manual', 'repair'),
      force: fc.boolean(),
      consent: fc.boolean(),
    }),
    fc.record({ type: fc.constant('release' as const), claim: fc.nat(), clean: fc.boolean() }),
    fc.record({
      type: fc.constant('propose' as const),
      claim: fc.nat(),
      set: fc.subarray(['r-a', 'r-b', 'r-c'], { minLength: 1 }),
      lag: fc.nat(1),
    }),
    fc.record({ type: fc.constant('restart' as const), node: fc.nat(2) }),
    fc.record({ type: fc.constant('die' as const), node: fc.nat(2) }),
  );
  fc.assert(
    fc.property(fc.array(op, { maxLength: 60 }), (ops) => {
      let record = volumeOn(nodeIds);
      const instances = nodeIds.map((id) => `${id}-0`);
      const up = nodeIds.map(() => true);
      const claims: Claim[] = [];
      let starts = 0;
      let lastClean = true;
      for (const step of ops) {
        const holder = record.status.attachment;
        const before = record.status.segments[0];
        if (step.type === 'die') up[step.node] = false;
        else if (step.type === 'restart') {
          up[step.node] = true;
          instances[step.node] = `${nodeIds[step.node] ?? ''}-${++starts}`;
        } else if (step.type === 'acquire') {
          if (!up[step.node]) continue;
          const at = holder ? nodeIds.indexOf(holder.nodeId) : -1;
          const lease: NodeLeaseRecord | null =
            at >= 0 && up[at]
              ? { agentInstance: instances[at] ?? '', bootId: 'b', addresses }
              : null;
          const nodeId = nodeIds[step.node] ?? '';
          const agentInstance = instances[step.node] ?? '';
          const decision = decideAcquire(record, lease, {
            nodeId,
            agentInstance,
            mode: step.mode,
            onlyIfWanted: false,
            force: step.force,
            acceptUnflushedLoss: step.consent,
            nowWallMs: 5,
          });
          const living = holder && lease?.agentInstance === holder.agentInstance;
          if (living && holder.nodeId !== nodeId && !step.force) {
            if (decision.type === 'grant') return false;
            continue;
          }
          if (decision.type !== 'grant') return false;
          // I2: larger at each grant; I6: only a clean end spares the next one the wait
          if (decision.attachment.epoch !== record.status.epoch + 1) return false;
          if (decision.previousReleased !== (holder === null && lastClean)) return false;
          const granted = { value: decision.record, modRevision: 1 };
          const grant = grantOf(granted, decision.attachment, false, emptyState());
          // a consent is used by the grant that it was given with, and by no other
          if (grant.acceptUnflushedLoss !== step.consent) return false;
          record = decision.record;
          claims.push({
            nodeId,
            instance: agentInstance,
            epoch: decision.attachment.epoch,
            setRevision: before?.setRevision ?? 0,
          });
        } else if (claims.length > 0) {
          const claim = claims[step.claim % claims.length];
          if (!claim) continue;
          const isCurrent = holder?.epoch === claim.epoch;
          if (step.type === 'release') {
            const released = releaseAttachment(record, claim.epoch, step.clean);
            if ((released !== null) !== isCurrent) return false;
            if (!released) continue;
            record = released;
            lastClean = step.clean;
            continue;
          }
          const setRevision = claim.setRevision - step.lag;
          const decision = decideSet(record, {
            nowWallMs: 7,
            segment: 0,
            epoch: claim.epoch,
            setRevision,
            inSync: step.set,
          });
          // I4: nothing of another epoch or revision changes the set
          if (decision.type === 'change') {
            if (!isCurrent || before?.setRevision !== setRevision) return false;
            record = decision.record;
            claim.setRevision = decision.setRevision;
            const after = record.status.segments[0];
            if (after?.setRevision !== setRevision + 1) return false;
            if ([...after.inSync].sort().join() !== [...step.set].sort().join()) return false;
          } else if (decision.type === 'done') {
            if (!isCurrent || before?.setRevision !== setRevision + 1) return false;
            if ([...before.inSync].sort().join() !== [...step.set].sort().join()) return false;
          }
        }
      }
      return (record.status.segments[0]?.inSync.length ?? 0) > 0;
    }),
    { numRuns: 500 },
  );
  const held = volumeOn(['a'], {
    epoch: 3,
    attachment: { nodeId: 'a', agentInstance: 'i', epoch: 3, mode: 'auto', sinceMs: 0 },
  });
  t.equal(changeMode(held, 3, 'manual')?.status.attachment?.mode, 'manual');
  t.equal(changeMode(held, 2, 'manual'), null);
});

t.test('controllers bring every creation to an end, and then rest', async () => {
  const report = fc.constantFrom('ready', 'failed', 'none');
  fc.assert(
    fc.property(
      fc.array(fc.record({ up: fc.boolean(), report }), { minLength: 1, maxLength: 4 }),
      (nodes) => {
        const state = emptyState();
        nodes.forEach(({ up }, i) => {
          addNode(state, `n${i}`, { up });
        });
        const volume = volumeOn(
          nodes.map((_, i) => `n${i}`),
          { phase: 'creating' },
        );
        for (const segment of volume.status.segments) {
          segment.inSync = [];
          segment.setRevision = 0;
          for (const replica of segment.replicas) replica.state = 'creating';
        }
        put(state, volume);
        const tell = (id: string, value: string): void => {
          const facts = { replicaId: id, volumeId: 'v-1', nodeId: '', code: '', message: '' };
          state.reports.set(id, { modRevision: 1, value: { ...facts, state: value } });
        };
        nodes.forEach(({ report: said }, i) => {
          if (said !== 'none') tell(`r-n${i}`, said);
        });
        const controllers = new Controllers();
        let nowMs = 0;
        for (let round = 0; round < 4; round++) {
          for (const action of planAt(controllers, state, nowMs)) apply(state, action);
          for (const { value } of state.deleted.values()) {
            for (const r of value.status.segments[0]?.replicas ?? []) tell(r.id, 'deleted');
          }
          nowMs += createPatienceMs + 1;
        }
        const good = nodes.every((n) => n.report === 'ready');
        const made = state.volumes.get('v-1')?.value.status;
        if (planAt(controllers, state, nowMs).some((a) => a.type !== 'ask-attach')) return false;
        if (!good) return state.volumes.size + state.deleted.size + state.names.size === 0;
        return made?.phase === 'ready' && made.segments[0]?.inSync.length === nodes.length;
      },
    ),
  );
});

t.test('repair is asked for late, with growing waits, and of each node in turn', async (t) => {
  const state = emptyState();
  for (const id of ['a', 'b', 'c']) addNode(state, id, {});
  const volume = volumeOn(['a', 'b', 'c']);
  for (const segment of volume.status.segments) segment.inSync = ['r-a', 'r-b'];
  put(state, volume);
  const controllers = new Controllers();
  const asked: [number, string][] = [];
  for (let nowMs = 0; nowMs <= 400_000; nowMs += 500) {
    for (const action of planAt(controllers, state, nowMs)) {
      if (action.type === 'ask-attach') asked.push([nowMs, action.nodeId]);
    }
  }
  const times = asked.map(([ms]) => ms);
  const gaps = times.slice(1).map((ms, i) => ms - (times[i] ?? 0));
  t.equal(times[0], repairDelayMs);
  t.same(gaps.slice(0, 5), [2_000, 4_000, 8_000, 16_000, 32_000]);
  t.equal(Math.max(...gaps), repairBackoffMaxMs);
  t.same(
    asked.slice(0, 4).map(([, node]) => node),
    ['a', 'b', 'a', 'b'],
  );

  state.leases.delete('c');
  t.same(planAt(controllers, state, 1_000_000), [], 'the missing replica is down');
  addNode(state, 'c', {});
  const attachment: Attachment = {
    nodeId: 'a',
    agentInstance: 'i-a',
    epoch: 1,
    mode: 'auto',
    sinceMs: 0,
  };
  volume.status.attachment = attachment;
  t.same(planAt(controllers, state, 1_000_000), [], 'its primary does it');
  attachment.agentInstance = 'older';
  t.match(planAt(controllers, state, 1_000_000), [{ type: 'ask-attach', mode: 'repair' }]);
  const missing = volume.status.segments[0]?.replicas[2];
  if (missing) missing.state = 'failed';
  t.same(planAt(controllers, state, 2_000_000), [], 'what failed does not come back');
});

t.test('health against its definition', async (t) => {
  const facts = fc.record({
    up: fc.boolean(),
    inSync: fc.boolean(),
    state: fc.constantFrom('ready' as const, 'ready' as const, 'failed' as const),
  });
  fc.assert(
    fc.property(fc.array(facts, { minLength: 1, maxLength: 5 }), (nodes) => {
      const state = emptyState();
      nodes.forEach(({ up }, i) => {
        addNode(state, `n${i}`, { up });
      });
      const volume = volumeOn(nodes.map((_, i) => `n${i}`));
      const segment = volume.status.segments[0];
      if (!segment) return false;
      segment.inSync = nodes.flatMap((n, i) => (n.inSync ? [`r-n${i}`] : []));
      nodes.forEach((n, i) => {
        const replica = segment.replicas[i];
        if (replica) replica.state = n.state;
      });
      const good = nodes.filter((n) => n.up && n.inSync && n.state === 'ready').length;
      const tooFew = good < membersNeeded('soft', nodes.length);
      const lacking = tooFew ? 'suspended' : 'degraded';
      const wanted = good === 0 ? 'unavailable' : good === nodes.length ? 'healthy' : lacking;
      const { status } = describeVolume({ value: volume, modRevision: 9 }, state, null, 'n0');
      return status.health === wanted && (status.message === '') === (wanted === 'healthy');
    }),
  );
  const state = emptyState();
  for (const id of ['a', 'b']) addNode(state, id, {});
  const volume = volumeOn(['a', 'b'], {
    epoch: 4,
    attachment: { nodeId: 'b', agentInstance: 'i-b', epoch: 4, mode: 'auto', sinceMs: 7 },
  });
  for (const segment of volume.status.segments) segment.inSync = ['r-b'];
  const live = {
    volumeId: 'v-1',
    epoch: 4,
    state: 'serving',
    reason: '',
    stateAgeMs: 0,
    connections: 1,
    allocatedBytes: 8192,
    settleBytesRemaining: 0,
    replicas: [{ replicaId: 'r-a', state: 'syncing', bytesRemaining: 3 * 2 ** 20 }],
  };
  const seen = describeVolume({ value: volume, modRevision: 9 }, state, live, 'a');
  t.match(seen, {
    metadata: { resourceVersion: 9 },
    status: {
      health: 'degraded',
      message:
        '1 of 2 replicas in sync: the replica on name-a is being brought in sync (3MiB left)',
      primary: { nodeId: 'b', node: 'name-b', mode: 'auto', sinceMs: 7 },
      allocatedBytes: 8192,
      nbdUri: 'nbd://h:4/db',
    },
  });
  const old = describeVolume({ value: volume, modRevision: 9 }, state, { ...live, epoch: 3 }, 'a');
  t.match(old.status.replicas[0], { state: 'out-of-sync', bytesRemaining: 0 }, 'an older primary');
});

t.test('records', async (t) => {
  const volume = volumeOn(['a']);
  const future = {
    ...volume,
    shared: true,
    status: { ...volume.status, attachment: null, tags: ['x'] },
    spec: { ...volume.spec, tier: 'gold' },
  };
  const read = decodeVolume('k', encodeRecord(future));
  const written: unknown = JSON.parse(new TextDecoder().decode(encodeRecord(read)));
  t.same(written, JSON.parse(JSON.stringify(future)), 'what a newer version wrote is kept');
  const { requestId: _r, failure: _f, ...older } = volume;
  t.match(decodeVolume('k', encodeRecord(older)), { requestId: '', failure: null });
  t.match(
    messageOf(() => decodeVolume('/stor/volumes/x', encodeRecord({ ...volume, spec: {} }))),
    /^INTERNAL: \/stor\/volumes\/x holds no volume: spec\.sizeBytes/,
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), fc.string(), (value, id) => {
      const state = emptyState();
      const change = { key: volumeKey(id), value, modRevision: 1 };
      return applyChange(state, change) !== null && state.volumes.size === 0;
    }),
  );
  t.same(splitAddress('[::1]:80'), { host: '::1', port: 80 });
  t.same(splitAddress('h:80'), { host: 'h', port: 80 });
  t.same(splitAddress('h'), { host: 'h', port: 0 });
});

t.test('a grant names all snapshots of the volume, and no other', async (t) => {
  const state = emptyState();
  const snapshot = (volumeId: string, id: string, more: object, modRevision: number): void => {
    const value = encodeRecord({
      id,
      volumeId,
      name: id,
      labels: {},
      createdAtMs: modRevision,
      sizeBytes: gib,
      ...more,
    });
    t.equal(applyChange(state, { key: snapshotKey(volumeId, id), value, modRevision }), null);
  };
  snapshot('v-1', 's-b', { state: 'ready' }, 5);
  snapshot('v-1', 's-a', { state: 'creating' }, 6);
  snapshot('v-1', 's-c', { state: 'deleting' }, 7);
  snapshot('v-1', 's-d', { state: 'of a newer version' }, 8);
  snapshot('v-2', 's-e', { state: 'ready' }, 9);
  const volume = { value: volumeOn(['a']), modRevision: 9 };
  volume.value.metadata.id = 'v-1';
  const settings = settingsOf(volume, 3, state);
  t.strictSame(settings.snapshots, [
    { id: 's-b', state: 'ready', sizeBytes: gib },
    { id: 's-a', state: 'creating', sizeBytes: gib },
    { id: 's-c', state: 'deleting', sizeBytes: gib },
    // nothing is built on a state that this version does not know
    { id: 's-d', state: 'creating', sizeBytes: gib },
  ]);
  for (const id of ['s-a', 's-b', 's-c', 's-d']) {
    applyChange(state, { key: snapshotKey('v-1', id), value: null, modRevision: 10 });
  }
  t.notOk(state.snapshots.has('v-1'));
  t.strictSame(settingsOf(volume, 3, state).snapshots, []);
});
