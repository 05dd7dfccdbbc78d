import type { Rebuild, StorEvent } from '@stor/protocol';
import type { FakeCluster } from './fake-cluster.ts';
import { fakeScrub, makeNode } from './fake-cluster.ts';
import { fakeSnapshot, hex, settleReplicas, startMs } from './fake-volume.ts';

export function fakeRebuild(change: Partial<Rebuild>): Rebuild {
  return {
    volume: 'db',
    volumeId: hex('v', 1),
    replicaId: hex('r', 3),
    nodeId: hex('n', 3),
    node: 'n3',
    reason: 'returned',
    state: 'running',
    message: '',
    source: 'n1',
    bytesTotal: 2 ** 30,
    bytesRemaining: 640 * 2 ** 20,
    bytesCopied: 96 * 2 ** 20,
    bytesPerSecond: 80 * 2 ** 20,
    etaMs: 8_000,
    startedAtMs: startMs,
    ...change,
  };
}

export function fakeEvent(n: number, change: Partial<StorEvent> = {}): StorEvent {
  return {
    id: hex('e', n),
    type: 'warning',
    reason: 'bad-block-found',
    object: { kind: 'replica', id: hex('r', 3), name: hex('r', 3) },
    volumeId: hex('v', 1),
    volume: 'db',
    node: 'n1',
    message: 'the block at byte 4096 does not match its checksum',
    count: 1,
    firstMs: startMs,
    lastMs: startMs,
    resourceVersion: n,
    ...change,
  };
}

const filling = (node: string, bytesRemaining: number) =>
  fakeRebuild({
    replicaId: hex('r', 4),
    node,
    reason: 'update',
    bytesRemaining,
    etaMs: (bytesRemaining / (80 * 2 ** 20)) * 1000,
  });

/** What a recording may set up between two commands, by the text of its note. */
export const scenes: Record<string, (cluster: FakeCluster) => void> = {
  'db is attached on n2 and has a replica there, which takes two looks to move': (cluster) => {
    const volume = { volume: 'db', volumeId: hex('v', 1) };
    const here = { ...volume, segment: 0, replicaId: hex('r', 2) };
    const moves = [{ ...here, toNode: 'n4', toDisk: '/srv/n4/d1', bytes: 2 ** 30 }];
    const attachments = [{ ...volume, mode: 'auto' as const, toNode: 'n1' }];
    const all = { moves, attachments, bytes: 2 ** 30, etaMs: 16_000 };
    const left = { ...all, remaining: { attachments: 0, replicas: 1 } };
    cluster.rebuilds = [fakeRebuild({ reason: 'move', node: 'n4' })];
    cluster.nodePlans = [left, left, left, { remaining: { attachments: 0, replicas: 0 } }];
  },
  'n2 has a replica of db and a vote, and leaves after three looks': (cluster) => {
    const here = { volume: 'db', volumeId: hex('v', 1), segment: 0, replicaId: hex('r', 2) };
    const moves = [{ ...here, toNode: 'n4', toDisk: '/srv/n4/d1', bytes: 2 ** 30 }];
    const left = { moves, bytes: 2 ** 30, etaMs: 16_000 };
    const note = 'it has a vote in the control plane, which it gives up';
    const all = { ...left, remaining: { attachments: 0, replicas: 1 }, notes: [note] };
    cluster.rebuilds = [fakeRebuild({ reason: 'move', node: 'n4' })];
    cluster.nodePlans = [all, all, all, { notes: [note] }, {}];
  },
  'db has its last copy on n3, which is down': (cluster) => {
    const node = cluster.nodes.at(-1);
    if (node) node.status.state = 'down';
    const text = 'no in-sync copy is left; n1 has an older one, which is not used by itself';
    const effect = { becomes: 'lost' as const, inSync: 0, wanted: 2, text };
    const effects = [{ volume: 'db', volumeId: hex('v', 1), ...effect }];
    const reasons = [`volume db would be lost: ${text}`];
    const notes = ['its id is never used again; its name is free'];
    const remaining = { attachments: 0, replicas: 2 };
    cluster.nodePlans = [{ effects, reasons, notes, remaining, safe: false }];
  },
  'without n2 nobody serves db': (cluster) => {
    const text = '0 of 1 replicas in sync: nobody can serve it until one is back';
    const effect = { becomes: 'unavailable' as const, inSync: 0, wanted: 1, text };
    const effects = [{ volume: 'db', volumeId: hex('v', 1), ...effect }];
    const reasons = [`volume db would be unavailable: ${text}`];
    cluster.nodePlans = [{ effects, reasons, safe: false }];
  },
  'nothing is in the way of any node': (cluster) => {
    cluster.nodePlans = [];
  },
  'one replica moves, and one has moved': ({ rebalance }) => {
    const { planned } = rebalance.known;
    Object.assign(rebalance.known, {
      ...{ moved: 1, movedBytes: 8 * 2 ** 30, moving: planned.slice(0, 1) },
      ...{ planned: planned.slice(1), plannedMoves: 1, plannedBytes: 8 * 2 ** 30, failed: 1 },
      rate: { bytesPerSecond: 50 * 2 ** 20, source: 'budget' },
    });
  },
  'a node is down': ({ rebalance }) => {
    const message = 'node n3 is down, and replicas lie on it';
    Object.assign(rebalance.known, { state: 'waiting', message });
  },
  'a rule is broken': (cluster) => {
    cluster.violations = [
      {
        ...{ volume: 'db', volumeId: 'v-1', segment: 0, kind: 'domain', required: true },
        message: 'node n2 is in zone a, where node n1 has one already',
        next: 'the replica on node n2 moves to node n3 once all replicas are in sync',
      },
    ];
  },
  'a replica of db lies on every disk, and moves when it must': (cluster) => {
    const replica = {
      id: hex('r', 1),
      volume: 'db',
      volumeId: hex('v', 1),
      segment: 0,
      sizeBytes: 20 * 2 ** 30,
      allocatedBytes: 2 ** 30,
      state: 'in-sync',
      leaving: false,
      otherCopies: 2,
    };
    const move = { volume: 'db', replicaId: hex('r', 1), segment: 0, bytes: 2 ** 30 };
    cluster.moves = [{ ...move, toNode: 'n4', toDisk: '/srv/n4/d1' }];
    cluster.diskLooks = [[replica], [replica], [{ ...replica, leaving: true }], []];
  },
  'db has a snapshot of each day': (cluster) => {
    const volume = cluster.volume('db');
    for (let day = 0; day < 10; day++) {
      const atMs = startMs - day * 86_400_000;
      const name = new Date(atMs).toISOString().slice(0, 10);
      cluster.snapshots.unshift(fakeSnapshot(volume, 100 + day, { name, atMs }));
    }
  },
  'db@monday differs': (cluster) => {
    const chunk = 256 * 1024;
    cluster.changes = [
      { offset: 0, length: chunk },
      { offset: 4 * chunk, length: 3 * chunk },
      { offset: 100 * chunk, length: chunk },
    ];
  },
  'replicas of db say what they take': (cluster) => {
    const { status } = cluster.volume('db');
    status.snapshots = 2;
    status.space = {
      allocatedBytes: 3 * 2 ** 20,
      snapshotBytes: 5 * 2 ** 20,
      reclaimableBytes: 256 * 1024,
    };
  },
  'n3 is down': (cluster) => {
    const node = cluster.nodes[2];
    if (node) node.status.state = 'down';
    for (const { spec, status } of cluster.volumes) {
      status.health = 'degraded';
      status.message = 'replica on n3 is not in sync: the node is down';
      const replica = status.replicas[2];
      if (spec.replicas === 3 && replica) replica.state = 'node-down';
    }
  },
  'n3 copies': (cluster) => {
    for (const { status } of cluster.volumes) {
      const replica = status.replicas[2];
      if (replica) Object.assign(replica, { state: 'syncing', bytesRemaining: 5 * 2 ** 20 });
    }
  },
  'no quorum': (cluster) => {
    cluster.status = { quorum: false, leader: null };
    cluster.fail('createVolume', 'UNAVAILABLE', 'no quorum: 1 of 3 nodes answers');
  },
  'the host of db does not answer': (cluster) => {
    const message = 'node n1 cannot be reached at 127.0.0.1:17110: check that its agent runs';
    cluster.fail('detachDevice', 'UNAVAILABLE', message);
  },
  'a host lacks FUSE': (cluster) => {
    const text = '/dev/fuse is not there, and without it no volume becomes a device';
    cluster.devices.checks[1] = { name: 'fuse', state: 'failed', text };
  },
  'db is attached elsewhere': (cluster) => {
    cluster.fail(
      'attachVolume',
      'ATTACHED_ELSEWHERE',
      'volume db is attached to n2 since 2026-01-02T03:04:06Z: "storctl volume detach db" gives it free',
      { holder: 'n2' },
    );
  },
  'there is a node n4': (cluster) => {
    cluster.nodes.push(makeNode(4));
  },
  'n1 is down': (cluster) => {
    const node = cluster.nodes[0];
    if (node) node.status.state = 'down';
  },
  'writes to db are held': (cluster) => {
    const { status } = cluster.volume('db');
    status.serving = 'holding';
    status.health = 'suspended';
    status.message =
      '1 of 3 replicas in sync: I/O is held: 1 of 3 replicas is in sync and failure mode soft needs 2 (missing: r-2 on n2, r-3 on n3): writes wait until enough are in sync again, reads go on';
    for (const replica of status.replicas.slice(1)) replica.state = 'node-down';
  },
  'the replicas of db are filled while we look': (cluster) => {
    const volume = () => cluster.volume('db');
    cluster.steps.push(
      // the look before the change, and one at which nothing has happened yet
      () => {},
      () => {},
      () => {
        const added = volume().status.replicas.find(({ state }) => state === 'creating');
        if (added === undefined) return;
        added.state = 'syncing';
        cluster.rebuilds = [filling(added.node, 640 * 2 ** 20)];
      },
      () => {
        cluster.rebuilds = cluster.rebuilds.map(({ node }) => filling(node, 64 * 2 ** 20));
      },
      () => {
        cluster.rebuilds = cluster.rebuilds.map((rebuild) => ({
          ...rebuild,
          state: 'paused',
          message: 'paused by "storctl rebuild pause db"',
        }));
      },
      () => {
        cluster.rebuilds = [];
        settleReplicas(volume());
      },
    );
  },
  'scrubs of all kinds': (cluster) => {
    const [db, wal] = cluster.volumes.map(({ metadata }) => fakeScrub(metadata));
    if (!db || !wal) return;
    const counts = { bytes: 3 * 2 ** 30, found: 4, repaired: 3, kept: 1, diverged: 2 };
    const result = { startedAtMs: startMs - 86_400_000, endedAtMs: startMs - 80_000_000 };
    cluster.scrubs.set('db', {
      ...db,
      state: 'running',
      counts,
      bytesRemaining: 2 ** 30,
      bytesPerSecond: 64 * 2 ** 20,
      etaMs: 16_000,
      startedAtMs: startMs - 60_000,
      nextDueMs: null,
      history: [
        { ...result, runId: 'a', reason: 'schedule', complete: true, counts },
        {
          ...result,
          runId: 'b',
          reason: 'order',
          complete: false,
          counts: { ...counts, found: 0, repaired: 0, kept: 0, diverged: 0 },
        },
      ],
    });
    cluster.scrubs.set('wal', {
      ...wal,
      history: [{ ...result, runId: 'c', reason: 'schedule', complete: true, counts }],
    });
  },
  'some events': (cluster) => {
    cluster.events = [
      fakeEvent(1, { count: 12, lastMs: startMs + 90_000 }),
      fakeEvent(2, {
        type: 'normal',
        reason: 'scrub-finished',
        object: { kind: 'volume', id: hex('v', 1), name: 'db' },
        message: 'all replicas are equal',
      }),
      fakeEvent(3, {
        reason: 'disk-full',
        object: { kind: 'disk', id: hex('d', 2), name: '/srv/n2/d1' },
        volumeId: '',
        volume: '',
        node: 'n2',
        message: 'no\u001b[31m room',
      }),
    ];
  },
  'rebuilds of all kinds': (cluster) => {
    cluster.rebuilds = [
      fakeRebuild({
        volume: 'wal',
        volumeId: hex('v', 2),
        replicaId: hex('r', 6),
        reason: 'replacement',
        state: 'waiting',
        message: 'node n3 is down',
        source: '',
        bytesTotal: 0,
        bytesRemaining: 0,
        bytesCopied: 0,
        bytesPerSecond: 0,
        etaMs: null,
        startedAtMs: null,
      }),
      fakeRebuild({}),
      fakeRebuild({
        replicaId: hex('r', 4),
        node: 'n4',
        reason: 'move',
        state: 'paused',
        message: 'paused by "storctl rebuild pause db"',
        bytesPerSecond: 0,
        etaMs: null,
      }),
    ];
  },
  'db is degraded': (cluster) => {
    cluster.explanations.set('db', {
      name: 'db',
      volumeId: hex('v', 1),
      health: 'degraded',
      state: '2 of 3 replicas are in sync; n1 serves it',
      causes: [{ text: 'the replica on n3 is away: its node is down', sinceMs: startMs }],
      holder: 'n1 since 2026-01-02T03:04:06Z, by "storctl volume attach"',
      sinceMs: startMs,
      next: ['it is replaced on n4 at 2026-01-02T03:14:05Z if n3 is not back by then'],
      advice: ['start the agent of n3', 'storctl volume update db --replacement-wait 0'],
    });
  },
  'nobody answers about db': (cluster) => {
    cluster.fail(
      'recoverVolume',
      'UNAVAILABLE',
      'volume db cannot be recovered: no in-sync replica answers (n2: connection refused, n3: down)',
    );
  },
};
