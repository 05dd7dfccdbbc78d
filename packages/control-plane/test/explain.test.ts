import type { VolumeExplanation } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { describeVolume } from '../src/core/volume/describe-volume.ts';
import { explainVolume } from '../src/core/volume/explain-volume.ts';
import { rebuildsOf } from '../src/core/volume/list-rebuilds.ts';
import { formatWait } from '../src/core/volume/volume-sight.ts';
import type { VolumeSight } from '../src/core/volume/volume-sight.ts';
import type { LiveVolume } from '../src/agent-port.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import type { StoredVolume } from '../src/resources/records.ts';
import { clusterOf, gib, live, volumeOn } from './volume-fixture.ts';

const nowWallMs = 1_000_000;

function see(
  state: ClusterState,
  value: StoredVolume,
  said: LiveVolume | null = null,
  isCurrent = true,
): VolumeSight {
  const volume = { value, modRevision: 3 };
  state.volumes.set(value.metadata.id, volume);
  const timeText = (ms: number): string => `T+${ms / 1_000}s`;
  return { volume, state, live: said, nodeId: 'a', isCurrent, nowWallMs, timeText };
}

interface Row {
  what: string;
  sight: VolumeSight;
  says: Omit<VolumeExplanation, 'name' | 'volumeId'>;
}

const three = { a: {}, b: {}, c: {} };
const goneC = { a: {}, b: {}, c: { up: false, downSinceMs: 880_000 } };
const heldByA = { holder: { nodeId: 'a' } };

const rows: Row[] = [
  {
    what: 'healthy, attached nowhere',
    sight: see(clusterOf(three), volumeOn(['a', 'b', 'c'])),
    says: {
      health: 'healthy',
      state: '3 of 3 replicas in sync, attached nowhere',
      causes: [],
      holder: '',
      sinceMs: null,
      next: [],
      advice: [],
    },
  },
  {
    what: 'healthy and used',
    sight: see(clusterOf(three), volumeOn(['a', 'b', 'c'], heldByA), live('serving')),
    says: {
      health: 'healthy',
      state: '3 of 3 replicas in sync, reads and writes go on',
      causes: [],
      holder: 'node a since T+1s, for clients that connected there',
      sinceMs: null,
      next: [],
      advice: [],
    },
  },
  {
    what: 'a node is down, and another could take its replica',
    sight: see(
      clusterOf({ ...goneC, d: {} }),
      volumeOn(['a', 'b', 'c'], { ...heldByA, inSync: ['a', 'b'] }),
      live('serving'),
    ),
    says: {
      health: 'degraded',
      state: '2 of 3 replicas in sync, reads and writes go on',
      causes: [{ text: 'node c, which has a replica, is down', sinceMs: 880_000 }],
      holder: 'node a since T+1s, for clients that connected there',
      sinceMs: 880_000,
      next: [
        'when node c is back, only what was written meanwhile is copied to it',
        'if node c is not back by T+1480s, in 8m, its replica is replaced on another node (now node d would be taken)',
      ],
      advice: ['start the agent on node c'],
    },
  },
  {
    what: 'a node is down, and there is no other',
    sight: see(clusterOf(goneC), volumeOn(['a', 'b', 'c'], { inSync: ['a', 'b'] })),
    says: {
      health: 'degraded',
      state:
        '2 of 3 replicas in sync, attached nowhere; it can be used (failure mode soft needs 2)',
      causes: [{ text: 'node c, which has a replica, is down', sinceMs: 880_000 }],
      holder: '',
      sinceMs: 880_000,
      next: [
        'when node c is back, only what was written meanwhile is copied to it',
        'if node c is not back by T+1480s, in 8m, its replica is to be replaced, and at present no node can take it: a has one already; b has one already; c has one already',
      ],
      advice: ['start the agent on node c'],
    },
  },
  {
    what: 'a replica failed and nobody has room for another',
    sight: see(
      clusterOf({ ...three, d: { freeBytes: 1_000 } }),
      volumeOn(['a', 'b', 'c'], { inSync: ['a', 'b'], of: { c: { state: 'failed' } } }),
    ),
    says: {
      health: 'degraded',
      state:
        '2 of 3 replicas in sync, attached nowhere; it can be used (failure mode soft needs 2)',
      causes: [{ text: 'the replica on node c failed for good', sinceMs: null }],
      holder: '',
      sinceMs: null,
      next: [
        'the replica on node c cannot be replaced: a has one already; b has one already; c has only the disk on which one failed; d has no disk with room (1000B free)',
      ],
      advice: ['add a node, or a disk with "storctl disk add NODE PATH", or make room'],
    },
  },
  {
    what: 'a replica is filled',
    sight: see(
      clusterOf({ ...three, d: {} }),
      volumeOn(['a', 'b', 'd'], {
        ...heldByA,
        inSync: ['a', 'b'],
        of: { d: { purpose: 'replacement', placedAtMs: 950_000 } },
      }),
      live('serving', {}, [
        {
          replicaId: 'r-d',
          state: 'syncing',
          bytesRemaining: 3 * gib,
          resync: {
            state: 'running',
            message: '',
            sourceReplicaId: 'r-b',
            bytesTotal: 4 * gib,
            bytesRemaining: 3 * gib,
            bytesCopied: gib,
            bytesPerSecond: gib / 8,
            elapsedMs: 8_000,
          },
        },
      ]),
    ),
    says: {
      health: 'degraded',
      state: '2 of 3 replicas in sync, reads and writes go on',
      causes: [
        {
          text: 'the replica on node d is being made equal (it replaces a lost one): 3GiB left',
          sinceMs: 950_000,
        },
      ],
      holder: 'node a since T+1s, for clients that connected there',
      sinceMs: 950_000,
      next: ['the replica on node d is in sync in about 24s'],
      advice: [],
    },
  },
  {
    what: 'rebuilds are paused',
    sight: see(
      clusterOf(three),
      volumeOn(['a', 'b', 'c'], { inSync: ['a', 'b'], policy: { rebuildPaused: true } }),
    ),
    says: {
      health: 'degraded',
      state:
        '2 of 3 replicas in sync, attached nowhere; it can be used (failure mode soft needs 2)',
      causes: [
        {
          text: 'the replica on node c is out of sync, and rebuilds of this volume are paused',
          sinceMs: null,
        },
      ],
      holder: '',
      sinceMs: null,
      next: [],
      advice: ['run "storctl rebuild resume db"'],
    },
  },
  {
    what: 'writes are held',
    sight: see(
      clusterOf({
        a: {},
        b: { up: false, downSinceMs: 900_000 },
        c: { up: false, downSinceMs: 880_000 },
      }),
      volumeOn(['a', 'b', 'c'], {
        ...heldByA,
        inSync: ['a'],
        policy: { ioTimeoutMs: 30_000 },
      }),
      live('holding', { reason: '2 of 3 replicas are away', stateAgeMs: 100_000 }),
    ),
    says: {
      health: 'suspended',
      state: '1 of 3 replicas in sync, failure mode soft needs 2: writes are held, reads go on',
      causes: [
        { text: 'the primary holds I/O: 2 of 3 replicas are away', sinceMs: 900_000 },
        { text: 'node b, which has a replica, is down', sinceMs: 900_000 },
        { text: 'node c, which has a replica, is down', sinceMs: 880_000 },
      ],
      holder: 'node a since T+1s, for clients that connected there',
      sinceMs: 900_000,
      next: [
        'held writes go on as soon as 1 more replica is in sync',
        'a request that is held for 30s is answered with an error',
        'when node b is back, only what was written meanwhile is copied to it',
        'if node b is not back by T+1500s, in 9m, its replica is to be replaced, and at present no node can take it: a has one already; b has one already; c has one already',
        'when node c is back, only what was written meanwhile is copied to it',
        'if node c is not back by T+1480s, in 8m, its replica is to be replaced, and at present no node can take it: a has one already; b has one already; c has one already',
      ],
      advice: [
        'to go on with 1, run "storctl volume update db --failure-mode threshold=1": what is written then is on fewer disks',
        'start the agent on node b',
        'start the agent on node c',
      ],
    },
  },
  {
    what: 'nobody can serve it',
    sight: see(
      clusterOf({ a: { up: false, downSinceMs: 900_000 }, b: {} }),
      volumeOn(['a', 'b'], { inSync: ['a'], holder: { nodeId: 'a', mode: 'manual' } }),
    ),
    says: {
      health: 'unavailable',
      state: '0 of 2 replicas in sync: nobody can serve it',
      causes: [
        { text: 'the agent of node a, which held it, has ended', sinceMs: 900_000 },
        { text: 'node a, which has a replica, is down', sinceMs: 900_000 },
        { text: 'the replica on node b is out of sync', sinceMs: null },
      ],
      holder: 'node a since T+1s, by hand, until "storctl volume detach"',
      sinceMs: 900_000,
      next: [
        'it can be served again when node a is back',
        'the replica on node a has all that was acknowledged: it is waited for, and not replaced meanwhile',
      ],
      advice: ['start the agent on node a'],
    },
  },
  {
    what: 'its holder reaches no in-sync replica, which another node could not replace',
    sight: see(
      clusterOf({ a: {}, b: { up: false, downSinceMs: 900_000 }, c: {} }),
      volumeOn(['b'], heldByA),
      live('holding', { reason: 'no in-sync replica can be reached', stateAgeMs: 100_000 }, [
        { replicaId: 'r-b', state: 'connecting', bytesRemaining: 0 },
      ]),
    ),
    says: {
      health: 'suspended',
      state:
        '0 of 1 replica in sync, and the node that holds it reaches no in-sync replica: reads and writes are held',
      causes: [
        { text: 'the primary holds I/O: no in-sync replica can be reached', sinceMs: 900_000 },
        { text: 'node b, which has a replica, is down', sinceMs: 900_000 },
      ],
      holder: 'node a since T+1s, for clients that connected there',
      sinceMs: 900_000,
      next: [
        'I/O goes on as soon as an in-sync replica is reached again',
        'the replica on node b has all that was acknowledged: it is waited for, and not replaced meanwhile',
      ],
      advice: ['start the agent on node b'],
    },
  },
  {
    what: 'its node is just becoming primary',
    sight: see(
      clusterOf({ ...goneC, d: {} }),
      volumeOn(['a', 'b', 'c'], { ...heldByA, inSync: ['a', 'b'], of: { c: { leaving: true } } }),
      live('activating', { stateAgeMs: 500 }),
    ),
    says: {
      health: 'degraded',
      state: '2 of 3 replicas in sync, and its node is becoming primary: I/O waits for that',
      causes: [
        { text: 'node a is becoming primary', sinceMs: 999_500 },
        { text: 'node c, which has a replica, is down', sinceMs: 880_000 },
      ],
      holder: 'node a since T+1s, for clients that connected there',
      sinceMs: 999_500,
      next: ['the replica on node c is to leave and is not waited for'],
      advice: [],
    },
  },
  {
    what: 'without a quorum nothing is said of a lease, and no fence is advised',
    sight: see(clusterOf({ a: {}, b: {} }), volumeOn(['a', 'b'], heldByA), null, false),
    says: {
      health: 'healthy',
      state: '2 of 2 replicas in sync, but its holder says nothing of it',
      causes: [
        {
          text: 'the control plane has no quorum, so this is what node a knew last',
          sinceMs: null,
        },
        { text: 'node a, which holds it, does not answer', sinceMs: null },
      ],
      holder: 'node a since T+1s, for clients that connected there',
      sinceMs: null,
      next: [
        'an attached volume goes on while no in-sync set must change; all else waits for the quorum',
      ],
      advice: ['start agents until more than half of the members of the control plane run'],
    },
  },
  {
    what: 'a primary does not get ready',
    sight: see(
      clusterOf({ a: {}, b: { up: false } }),
      volumeOn(['a', 'b'], heldByA),
      live('activating', {
        reason: 'no reached in-sync replica kept its memory; waiting for r-b',
        stateAgeMs: 60_000,
      }),
    ),
    says: {
      health: 'unavailable',
      state: '1 of 2 replicas in sync, and the node that holds it does not serve it',
      causes: [
        {
          text: 'node a is becoming primary: no reached in-sync replica kept its memory; waiting for r-b',
          sinceMs: 940_000,
        },
        { text: 'node b, which has a replica, is down', sinceMs: null },
      ],
      holder: 'node a since T+1s, for clients that connected there',
      sinceMs: 940_000,
      next: [
        'the node that holds it goes on trying',
        'when node b is back, only what was written meanwhile is copied to it',
        'the replica on node b cannot be replaced: a has one already; b has one already',
      ],
      advice: [
        'start the agent on node b',
        'if the missing nodes are lost for good, run "storctl volume recover db --accept-unflushed-loss": writes that were never flushed may be lost',
        'add a node, or a disk with "storctl disk add NODE PATH", or make room',
      ],
    },
  },
  {
    what: 'its holder does not answer',
    sight: see(clusterOf({ a: {}, b: {} }), volumeOn(['a', 'b'], heldByA)),
    says: {
      health: 'healthy',
      state: '2 of 2 replicas in sync, but its holder says nothing of it',
      causes: [{ text: 'node a, which holds it, does not answer', sinceMs: null }],
      holder: 'node a since T+1s, for clients that connected there',
      sinceMs: null,
      next: [
        'if node a is dead, its node lease ends within seconds, and any node may attach the volume',
      ],
      advice: ['if node a does not come back and keeps its lease, run "storctl volume fence db"'],
    },
  },
  {
    what: 'the control plane has no quorum',
    sight: see(clusterOf({ a: {} }), volumeOn(['a']), null, false),
    says: {
      health: 'healthy',
      state: '1 of 1 replica in sync, attached nowhere',
      causes: [
        {
          text: 'the control plane has no quorum, so this is what node a knew last',
          sinceMs: null,
        },
      ],
      holder: '',
      sinceMs: null,
      next: [
        'an attached volume goes on while no in-sync set must change; all else waits for the quorum',
      ],
      advice: ['start agents until more than half of the members of the control plane run'],
    },
  },
  {
    what: 'a replica moves',
    sight: see(
      clusterOf({ ...three, d: {} }),
      volumeOn(['a', 'b', 'c', 'd'], {
        replicas: 3,
        inSync: ['a', 'b', 'c'],
        of: { c: { leaving: true }, d: { purpose: 'move', state: 'creating', placedAtMs: 7 } },
      }),
    ),
    says: {
      health: 'healthy',
      state: '3 of 3 replicas in sync, attached nowhere',
      causes: [
        { text: 'a replica is being created on node d (a replica moves there)', sinceMs: 7 },
      ],
      holder: '',
      sinceMs: null,
      next: ['the replica on node c leaves when d is in sync'],
      advice: [],
    },
  },
];

for (const { what, sight, says } of rows) {
  t.test(`explain: ${what}`, async (t) => {
    t.same(explainVolume(sight), { name: 'db', volumeId: 'v-db', ...says });
  });
}

t.test('a set that cannot change holds all, and nodes are named', async (t) => {
  const id = 'n-00000000000000aa';
  const state = clusterOf({ ...three, [id]: {} });
  const node = state.nodes.get(id);
  if (node) node.value.name = 'n9';
  const holding = live('holding', { reason: `missing: r-1 on ${id}`, stateAgeMs: 0 });
  const said = explainVolume(see(state, volumeOn(['a', 'b', 'c'], heldByA), holding));
  t.equal(
    said.state,
    '3 of 3 replicas in sync on record, but the in-sync set is being changed: I/O is held until that is done',
  );
  t.equal(said.causes[0]?.text, 'the primary holds I/O: missing: r-1 on n9');
});

t.test('health says what the primary says', async (t) => {
  const state = clusterOf(three);
  const volume = { value: volumeOn(['a', 'b', 'c'], heldByA), modRevision: 1 };
  const health = (said: LiveVolume | null) =>
    describeVolume(volume, state, said, 'a').status.health;
  t.equal(health(live('serving')), 'healthy');
  t.equal(health(live('holding')), 'suspended', 'also when all are in sync: a set cannot change');
  t.equal(health(live('failing')), 'suspended');
  t.equal(health(live('activating', { stateAgeMs: 1_000 })), 'healthy', 'it is only starting');
  t.equal(health(live('activating', { stateAgeMs: 9_000 })), 'unavailable');
  t.equal(health(live('holding', { epoch: 9 })), 'healthy', 'another epoch says nothing');
  const few = { value: volumeOn(['a', 'b', 'c'], { ...heldByA, inSync: ['a'] }), modRevision: 1 };
  const { status } = describeVolume(few, state, live('failing', { reason: 'two are away' }), 'a');
  t.match(status, {
    health: 'suspended',
    serving: 'failing',
    message: /^1 of 3 replicas in sync: writes get errors: two are away; the replica on b is out/,
  });
  t.match(describeVolume(few, state, null, 'a').status, {
    health: 'suspended',
    message: /writes would be held, because failure mode soft needs 2/,
  });
  t.equal(describeVolume(few, state, live('serving'), 'a').status.health, 'degraded');
});

t.test('the address of a volume says whether it is served over TLS only', async (t) => {
  const volume = { value: volumeOn(['a', 'b', 'c'], heldByA), modRevision: 1 };
  const { name } = volume.value.metadata;
  for (const [nbdTls, scheme] of [
    [undefined, 'nbd'],
    ['', 'nbd'],
    ['allowed', 'nbd'],
    ['required', 'nbds'],
  ] as const) {
    const state = clusterOf(three);
    const node = state.nodes.get('a');
    if (node && nbdTls !== undefined) node.value.addresses = { ...node.value.addresses, nbdTls };
    // the node that holds it is asked, not the one that answers
    t.equal(describeVolume(volume, state, null, 'b').status.nbdUri, `${scheme}://h:4/${name}`);
  }
});

t.test('a full disk is named, once, and the volume stays healthy', async (t) => {
  const state = clusterOf(three);
  const value = volumeOn(['a', 'b', 'c'], heldByA);
  const full = { state: 'in-sync', bytesRemaining: 0, noSpace: true };
  const said = live('serving', {}, [
    { ...full, replicaId: 'r-b' },
    { state: 'in-sync', bytesRemaining: 0, replicaId: 'r-a' },
  ]);
  const text = 'no space on disk /disk/b of node b for new chunks';
  const { status } = describeVolume({ value, modRevision: 1 }, state, said, 'a');
  t.match(status, { health: 'healthy', message: text });
  const explained = explainVolume(see(state, value, said));
  t.same(
    explained.causes.map((cause) => cause.text),
    [text],
  );
  t.match(explained.next, ['writes that need a new chunk go on by themselves when there is space']);
  t.match(explained.advice, [/^free space on that disk/]);
  const one = volumeOn(['a', 'b', 'c'], { ...heldByA, inSync: ['a', 'b'] });
  const degraded = describeVolume({ value: one, modRevision: 1 }, state, said, 'a').status;
  t.match(degraded.message, /^2 of 3 replicas in sync: .*; no space on disk \/disk\/b of node b/);
});

t.test('rebuilds: what runs, waits and why', async (t) => {
  const state = clusterOf({ ...three, d: { up: false, downSinceMs: 990_000 }, e: {} });
  const resync = {
    state: 'running' as const,
    message: '',
    sourceReplicaId: 'r-a',
    bytesTotal: 100,
    bytesRemaining: 60,
    bytesCopied: 7,
    bytesPerSecond: 20,
    elapsedMs: 2_000,
  };
  const volume = volumeOn(['a', 'b', 'c', 'd', 'e'], {
    ...heldByA,
    inSync: ['a'],
    of: { c: { purpose: 'replacement' }, e: { leaving: true } },
  });
  const said = live('serving', {}, [
    { replicaId: 'r-b', state: 'syncing', bytesRemaining: 60, resync },
    {
      replicaId: 'r-c',
      state: 'absent',
      bytesRemaining: 0,
      resync: { ...resync, state: 'waiting', message: 'backs off', sourceReplicaId: null },
    },
  ]);
  const base = { volume: 'db', volumeId: 'v-db' };
  t.match(rebuildsOf(see(state, volume, said)), [
    {
      ...base,
      node: 'b',
      reason: 'returned',
      state: 'running',
      source: 'a',
      bytesTotal: 100,
      bytesRemaining: 60,
      bytesCopied: 7,
      bytesPerSecond: 20,
      etaMs: 3_000,
      startedAtMs: nowWallMs - 2_000,
      message: '',
    },
    {
      ...base,
      node: 'c',
      reason: 'replacement',
      state: 'waiting',
      message: 'backs off',
      source: '',
    },
    {
      ...base,
      node: 'd',
      state: 'waiting',
      message: 'node d is down; replaced in 10m if it is not back',
      etaMs: null,
    },
  ]);
  t.equal(rebuildsOf(see(state, volume, said)).length, 3, 'what leaves is not filled');
  const free = volumeOn(['a', 'b'], { inSync: ['a'] });
  t.match(rebuildsOf(see(state, free)), [
    { state: 'waiting', message: 'attached nowhere: a node is asked to attach it' },
  ]);
  const paused = volumeOn(['a', 'b'], { inSync: ['a'], policy: { rebuildPaused: true } });
  t.match(rebuildsOf(see(state, paused)), [{ state: 'paused', message: 'paused for this volume' }]);
  const filled = volumeOn(['a', 'c'], {
    inSync: ['a'],
    of: { c: { purpose: 'move', filled: true } },
  });
  t.match(rebuildsOf(see(state, filled)), [{ reason: 'returned' }]);
  t.same(rebuildsOf(see(state, volumeOn(['a', 'b']))), []);
});

t.test('every state has a sentence, and waits are readable', async (t) => {
  const states = fc.constantFrom('ready', 'failed', 'creating');
  const node = fc.record({
    up: fc.boolean(),
    inSync: fc.boolean(),
    state: states,
    leaving: fc.boolean(),
  });
  const said = fc.constantFrom('serving', 'holding', 'failing', 'activating', 'stopping', '');
  fc.assert(
    fc.property(fc.array(node, { minLength: 1, maxLength: 5 }), said, (nodes, primary) => {
      const ids = nodes.map((_, i) => `n${i}`);
      const state = clusterOf(
        Object.fromEntries(nodes.map(({ up }, i) => [`n${i}`, { up, downSinceMs: 5 }])),
      );
      const value = volumeOn(ids, {
        inSync: ids.filter((_, i) => nodes[i]?.inSync),
        of: Object.fromEntries(
          nodes.map((n, i) => [`n${i}`, { state: n.state as 'ready', leaving: n.leaving }]),
        ),
        ...(primary === '' ? {} : { holder: { nodeId: 'n0' } }),
      });
      const sight = see(state, value, primary === '' ? null : live(primary));
      const told = explainVolume(sight);
      const described = describeVolume(sight.volume, state, sight.live, 'n0');
      const texts = [
        told.state,
        ...told.causes.map(({ text }) => text),
        ...told.next,
        ...told.advice,
      ];
      if (texts.some((text) => /undefined|NaN|null|\[object/.test(text) || text === ''))
        return false;
      if (told.health !== described.status.health) return false;
      // what is not healthy has a cause
      return told.health === 'healthy' || told.causes.length > 0;
    }),
  );
  t.equal(formatWait(0), '1s');
  t.equal(formatWait(119_001), '2m');
  t.equal(formatWait(7_200_000), '2h');
  t.equal(formatWait(48 * 3_600_000), '2d');
});
