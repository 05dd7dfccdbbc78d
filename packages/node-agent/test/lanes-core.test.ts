import { homeLane, laneAddress } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { checkAgentConfig, lanePorts } from '../src/config.ts';
import { DiskLanes } from '../src/core/lanes/disk-lanes.ts';
import { mergedCounters } from '../src/core/lanes/merged-counters.ts';
import { pooledCallsPerDisk } from '../src/core/lanes/pooled-calls.ts';
import { VolumeHomes, homeMemoryMs } from '../src/core/lanes/volume-homes.ts';
import type { LaneCounters } from '../src/lane/lane-protocol.ts';

const node = 'n-1';
const laneOfDisk = (diskId: string): number => Number(diskId.slice(2));

/** A segment with replicas on these lanes of the node; those in sync are marked by `!`. */
function segment(...lanes: string[]) {
  const replicas = lanes.map((lane) => ({
    id: `r-${lane}`,
    nodeId: node,
    diskId: `d-${lane.slice(0, 1)}`,
    leaving: lane.endsWith('-'),
  }));
  const inSync = lanes.filter((lane) => lane.includes('!')).map((lane) => `r-${lane}`);
  return { inSync, replicas: [...replicas, { id: 'r-x', nodeId: 'n-2', diskId: 'd-7' }] };
}

t.test('the lane of a volume is the one with most of its segments', async (t) => {
  const home = (...segments: ReturnType<typeof segment>[]): number | null =>
    homeLane(segments, node, laneOfDisk);
  t.equal(home(segment('1!')), 1);
  t.equal(home(segment('1!'), segment('0!'), segment('1!')), 1);
  t.equal(home(segment('1!'), segment('0!')), 0, 'of equal ones the first');
  t.equal(home(segment()), null, 'no replica here');
  t.equal(home(segment('0', '2!')), 2, 'of two on one node the one that can be read');
  t.equal(home(segment('0!-', '2!')), 2, 'of two that can be read the one that stays');
  t.equal(home(segment('1')), 1, 'none can be read yet');
});

t.test('an address of a lane that nobody listens for is the first', async (t) => {
  t.equal(laneAddress(['a', 'b'], 1), 'b');
  t.equal(laneAddress(['a', 'b'], undefined), 'a', 'a record of a version that knows one lane');
  t.equal(laneAddress(['a'], 1), 'a', 'the node was started with fewer lanes');
  t.equal(laneAddress([], 0), undefined);
});

t.test('disks are spread over lanes, and stay where they are', async (t) => {
  const disks = new DiskLanes(2);
  t.same(
    ['a', 'b', 'c', 'd'].map((disk) => disks.assign(disk)),
    [0, 1, 0, 1],
  );
  t.equal(disks.assign('c'), 0, 'asked again');
  disks.forget('b');
  disks.forget('d');
  t.equal(disks.of('a'), 0);
  t.equal(disks.assign('e'), 1, 'to the lane with fewest');
  disks.rename('e', 'f');
  t.equal(disks.of('f'), 1);
  t.equal(disks.of('e'), 0, 'not known any more');
  disks.rename('f', 'f');
  t.equal(disks.assign('g'), 1, 'a renamed disk counts once');
});

t.test('property: the lanes of disks differ by at most one disk as long as none goes', async () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 5 }),
      fc.array(fc.string({ maxLength: 3 })),
      (lanes, ids) => {
        const disks = new DiskLanes(lanes);
        const counts = Array.from({ length: lanes }, () => 0);
        for (const id of new Set(ids)) counts[disks.assign(id)]! += 1;
        return Math.max(...counts) - Math.min(...counts) <= 1;
      },
    ),
  );
});

const volume = (lane: string) => ({ volumeId: 'v-1', name: 'db', segments: [segment(lane)] });

t.test('a volume stays with its lane while it is attached, and a while longer', async (t) => {
  const homes = new VolumeHomes({ nodeId: node, lanes: 2, laneOf: laneOfDisk });
  t.equal(homes.of('v-1'), 0, 'nobody knows it');
  t.equal(homes.choose(volume('1!'), 0), 1);
  t.equal(homes.named('db'), null, 'not attached yet');
  t.equal(homes.attach({ ...volume('1!'), epoch: 3 }, 0), 1);
  t.equal(homes.named('db'), 1);
  const later = 10 * homeMemoryMs;
  t.equal(homes.choose(volume('0!'), later), 1, 'its replica has moved to another disk');
  t.equal(homes.attach({ ...volume('0!'), epoch: 4 }, later), 1);
  homes.released('v-1', 3, later);
  t.equal(homes.named('db'), 1, 'an older epoch was given back');
  homes.released('v-1', 4, later);
  t.equal(homes.named('db'), null);
  t.equal(homes.choose(volume('0!'), later + homeMemoryMs), 1, 'it remembers');
  t.equal(homes.choose(volume('0!'), later + homeMemoryMs + 1), 0, 'chosen anew');
});

t.test('an epoch that was given back is served by no lane', async (t) => {
  const homes = new VolumeHomes({ nodeId: node, lanes: 2, laneOf: laneOfDisk });
  homes.attach({ ...volume('1!'), epoch: 3 }, 0);
  homes.released('v-1', 3, 0);
  const later = 2 * homeMemoryMs;
  t.equal(homes.choose(volume('0!'), later), 0, 'the other lane knows nothing of it');
  t.throws(() => homes.attach({ ...volume('0!'), epoch: 3 }, later), { code: 'STALE_EPOCH' });
  t.equal(homes.named('db'), null);
  t.equal(homes.attach({ ...volume('0!'), epoch: 4 }, later), 0);
});

t.test('a grant that came to nothing does not keep the volume', async (t) => {
  const homes = new VolumeHomes({ nodeId: node, lanes: 2, laneOf: laneOfDisk });
  homes.attach({ ...volume('1!'), epoch: 3 }, 0);
  homes.notAttached('v-1', 3, 0);
  t.equal(homes.named('db'), null);
  homes.attach({ ...volume('1!'), epoch: 5 }, 0);
  homes.notAttached('v-1', 4, 0);
  t.equal(homes.named('db'), 1, 'an older one came to nothing');
});

t.test('volumes without a replica here are spread over the lanes', async (t) => {
  const homes = new VolumeHomes({ nodeId: node, lanes: 3, laneOf: laneOfDisk });
  const lanes = ['a', 'b', 'c', 'd'].map((volumeId) =>
    homes.choose({ volumeId, name: volumeId, segments: [segment()] }, 0),
  );
  t.same(lanes, [0, 1, 2, 0]);
});

t.test('disks leave threads to the Raft log', async (t) => {
  t.equal(pooledCallsPerDisk(64, 1), 16);
  t.equal(pooledCallsPerDisk(64, 3), 16);
  t.equal(pooledCallsPerDisk(64, 7), 8);
  t.equal(pooledCallsPerDisk(32, 2), 12);
  t.equal(pooledCallsPerDisk(4, 1), 2, 'where there are too few, each disk has some');
  t.equal(pooledCallsPerDisk(64, 0), 16);
});

t.test('lanes need a port each', async (t) => {
  const listen = { host: '127.0.0.1', api: 1, http: 2 };
  const ports = (lanes: number, peers: number | number[], nbd: number[]) =>
    lanePorts({ lanes, listen: { ...listen, peers, nbd } }, 'config');
  t.same(ports(1, 3, [4, 5]), [{ peers: 3, nbd: 4 }]);
  t.same(ports(2, [3, 6], [4, 5, 9]), [
    { peers: 3, nbd: 4 },
    { peers: 6, nbd: 5 },
  ]);
  t.throws(() => ports(2, 3, [4, 5]), { code: 'INVALID_ARGUMENT', message: /listen\.peers.*of 2/ });
  t.throws(() => ports(2, [3, 6], [4]), { code: 'INVALID_ARGUMENT', message: /listen\.nbd/ });
  t.throws(() => ports(2, [3, 4], [4, 5]), { message: /port 4 is given to two/ });
  t.same(ports(2, [0, 0], [0, 0]).length, 2, 'any port');
  const whole = {
    ...{ clusterId: 'c-0123456789abcdef', nodeId: 'n-0123456789abcdef', nodeName: 'n1' },
    dataDir: '/data',
    members: [{ id: 'n-0123456789abcdef', name: 'n1', api: 'h:1' }],
  };
  t.throws(
    () => checkAgentConfig({ ...whole, lanes: 2, listen: { ...listen, peers: 3, nbd: [4] } }, 'f'),
    { message: /config file f: lanes: 2/ },
  );
  t.throws(
    () => checkAgentConfig({ ...whole, lanes: 17, listen: { ...listen, peers: 3, nbd: [4] } }, 'f'),
    { message: /lanes/ },
  );
});

function counted(volumeId: string, count: number): LaneCounters {
  const traffic = { connections: count, readBytes: count, writtenBytes: 2 * count };
  const ops = { op: 'read', count, bytes: count, errors: 1, buckets: [count, 0], secondsSum: 1 };
  return {
    exports: [
      { volume: 'db', volumeId, operations: [{ ...ops, op: 'read' }], connections: 1, inflight: 2 },
    ],
    latencyBucketsSeconds: [1],
    nbdErrors: [{ error: 'EIO', count }],
    nbdRefused: [{ reason: 'tls', count }],
    busyPollSeconds: count,
    disks: [{ diskId: `d-${count}`, errors: 0 }],
    relays: traffic,
    crossings: traffic,
    integrity: {
      disks: [{ diskId: 'd', found: count, repaired: 1 }],
      diverged: 1,
      scrubbedBytes: 2,
    },
    handovers: count,
    qos: [
      {
        volumeId,
        name: 'db',
        qos: { iops: 100 },
        queued: count,
        throttledRequests: { limit: count, tenant: 0, contention: 1 },
        throttledMs: { limit: 10, tenant: 0, contention: count },
        burstCredits: null,
      },
    ],
    classes: [
      {
        class: 'rebuild',
        weight: 50,
        iops: 0,
        bps: count,
        operations: count,
        bytes: count,
        queued: 1,
        throttledRequests: { limit: count, tenant: 0, contention: 1 },
        throttledMs: { limit: 10, tenant: 0, contention: count },
      },
    ],
  };
}

t.test('what lanes count is what the node counts', async (t) => {
  t.same(mergedCounters([counted('v', 3)]), counted('v', 3), 'of one lane: the same');
  const merged = mergedCounters([counted('v', 3), counted('v', 4), counted('w', 1)]);
  t.match(merged, {
    exports: [
      {
        volumeId: 'v',
        operations: [{ count: 7, errors: 2, buckets: [7, 0], secondsSum: 2 }],
        connections: 2,
        inflight: 4,
      },
      { volumeId: 'w', operations: [{ count: 1 }] },
    ],
    nbdErrors: [{ error: 'EIO', count: 8 }],
    qos: [
      {
        volumeId: 'v',
        queued: 7,
        throttledRequests: { limit: 7, tenant: 0, contention: 2 },
        throttledMs: { limit: 20, tenant: 0, contention: 7 },
      },
      { volumeId: 'w', queued: 1 },
    ],
    nbdRefused: [{ reason: 'tls', count: 8 }],
    busyPollSeconds: 8,
    disks: [{ diskId: 'd-3' }, { diskId: 'd-4' }, { diskId: 'd-1' }],
    relays: { connections: 8, readBytes: 8, writtenBytes: 16 },
    integrity: { disks: [{ found: 8, repaired: 3 }], diverged: 3, scrubbedBytes: 6 },
    handovers: 8,
    classes: [
      {
        class: 'rebuild',
        weight: 50,
        bps: 8,
        operations: 8,
        bytes: 8,
        queued: 3,
        throttledRequests: { limit: 8 },
        throttledMs: { limit: 30, contention: 8 },
      },
    ],
  });
  t.equal(merged.exports.length, 2);
  t.equal(merged.integrity.disks.length, 1, 'one sample for a disk');
});
