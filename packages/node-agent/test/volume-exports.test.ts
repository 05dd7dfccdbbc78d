import t from 'tap';
import {
  StorError,
  defaultPolicy,
  type AttachmentGrant,
  type VolumeSettings,
} from '@stor/protocol';
import type { PrimaryVolume, SnapshotSource } from '@stor/replicator';
import { silentLogger, systemNetwork } from '@stor/runtime';
import { FakeClock } from '@stor/runtime/testing';
import { VolumeExports } from '../src/exports/volume-exports.ts';
import type { NbdPeer } from '../src/nbd/nbd-exports.ts';
import type { MainMethods } from '../src/lane/lane-protocol.ts';

const noSnapshots = ({ replicaId }: { replicaId: string }): SnapshotSource => ({
  replicaId,
  open: () => Promise.reject(new StorError('NOT_FOUND', 'no snapshots here')),
});

type MemberState = 'in-sync' | 'syncing' | 'absent';

class FakePrimary {
  stopped = 0;
  /** when set, stopping waits for it */
  stopGate: Promise<void> | null = null;
  readonly listeners: ((reason: StorError) => void)[] = [];
  members: { replicaId: string; nodeId: string; state: MemberState; bytesRemaining: number }[] = [];
  idle = async (): Promise<void> => {};
  stop = async (): Promise<void> => {
    this.stopped++;
    await this.stopGate;
  };
  onStopped = (listener: (reason: StorError) => void): void => {
    this.listeners.push(listener);
  };
  status = (): object => ({ state: 'serving', reason: '', segments: [{ members: this.members }] });
}

/** Exports over a fake control plane: grants count epochs up, releases are noted. */
function setUp(mode: AttachmentGrant['mode'] = 'auto') {
  const clock = new FakeClock();
  const released: { epoch: number; clean: boolean }[] = [];
  const primaries: FakePrimary[] = [];
  const updates: VolumeSettings[] = [];
  let epoch = 0;
  let attachError: Error | null = null;
  let acquireGate: Promise<void> | null = null;
  let activationGate: Promise<void> | null = null;
  let starting: PrimaryVolume | null = null;
  const grantOf = (): AttachmentGrant => ({
    volumeId: 'v-1',
    name: 'db',
    sizeBytes: 4096,
    epoch: ++epoch,
    mode,
    previousReleased: true,
    acceptUnflushedLoss: false,
    resourceVersion: 1,
    replicas: 1,
    policy: defaultPolicy(1),
    segments: [],
  });
  const published: { now: Pick<VolumeSettings, 'publications'> & { resourceVersion?: number } } = {
    now: {},
  };
  /** the record names no attachment any more */
  let takenAway = false;
  const control = {
    acquire: async () => {
      takenAway = false;
      const grant = { ...grantOf(), ...published.now };
      await acquireGate;
      return grant;
    },
    release: async (_id: string, at: number, { clean }: { clean: boolean }) => {
      released.push({ epoch: at, clean });
    },
    volumeInfo: async () => ({
      resourceVersion: 1,
      ...published.now,
      attachedEpoch: takenAway ? null : epoch,
      name: 'db',
      volumeId: 'v-1',
      sizeBytes: 20 * 2 ** 30,
      shared: false,
      replicas: 3,
      labels: { tier: 'db', env: 'prod' },
    }),
  } as unknown as MainMethods;
  const exports = new VolumeExports({
    host: {
      attach: async () => {
        if (attachError) throw attachError;
        const primary = new FakePrimary();
        primaries.push(primary);
        await activationGate;
        return primary as unknown as PrimaryVolume;
      },
      primary: () => starting,
      updateVolume: (settings) => {
        updates.push(settings);
      },
    },
    control,
    nodeId: 'n-1',
    agentInstance: 'a',
    network: systemNetwork,
    clock,
    logger: silentLogger,
    autoDetachMs: 30_000,
    allocatedBytes: () => new Map(),
    snapshotSource: noSnapshots,
  });
  return {
    exports,
    clock,
    released,
    primaries,
    updates,
    published,
    takeAway: () => {
      takenAway = true;
    },
    grantOf,
    failAttach: (error: Error | null) => {
      attachError = error;
    },
    holdGrants: (gate: Promise<void>) => {
      acquireGate = gate;
    },
    holdActivation: (gate: Promise<void>, primary: PrimaryVolume) => {
      activationGate = gate;
      starting = primary;
    },
  };
}

const settle = async (): Promise<void> => {
  for (let i = 0; i < 20; i++) await Promise.resolve();
};
const client: NbdPeer = {
  id: 1,
  remote: 'test',
  tls: null,
  client: null,
  contexts: [],
  /** each connection's own */
  get left(): AbortSignal {
    return new AbortController().signal;
  },
};

t.test(
  'connections at once share one attachment, given back some time after the last',
  async (t) => {
    const { exports, clock, released, primaries } = setUp();
    const leases = await Promise.all([exports.open('db', client), exports.open('db', client)]);
    t.equal(primaries.length, 1);
    leases[0].release();
    leases[0].release();
    clock.advance(60_000);
    await settle();
    t.same(released, [], 'a client is still there');
    leases[1].release();
    clock.advance(29_000);
    await settle();
    t.same(released, []);
    const again = await exports.open('db', client);
    clock.advance(29_000);
    await settle();
    t.same(released, [], 'a client came back in time');
    again.release();
    clock.advance(31_000);
    await settle();
    t.same(released, [{ epoch: 1, clean: true }]);
    t.equal(primaries[0]?.stopped, 1);
  },
);

t.test(
  'detach: busy while clients are there and only idle is asked for; else they are cut',
  async (t) => {
    const { exports, released } = setUp();
    const lease = await exports.open('db', client);
    let revoked = 0;
    lease.onRevoked(() => revoked++);
    t.equal(await exports.detach('v-1', 1, true), 'busy');
    t.equal(await exports.detach('v-1', 7, false), 'gone', 'another epoch');
    t.equal(await exports.detach('v-1', 1, false), 'released');
    t.equal(revoked, 1);
    t.same(released, [{ epoch: 1, clean: true }]);
    t.equal(await exports.detach('v-1', 1, false), 'gone');
    const next = await exports.open('db', client);
    t.equal(next.name, 'db', 'a new client gets a new attachment');
  },
);

t.test('a primary that could not start gives its attachment back as not clean (I6)', async (t) => {
  const { exports, released, failAttach } = setUp();
  failAttach(new StorError('UNAVAILABLE', 'no replica answers'));
  await t.rejects(exports.open('db', client), { message: 'no replica answers' });
  await settle();
  t.same(released, [{ epoch: 1, clean: false }]);
  failAttach(null);
  t.equal((await exports.open('db', client)).volumeId, 'v-1');
});

t.test(
  'a primary superseded by a newer epoch cuts its clients and claims no clean release',
  async (t) => {
    const { exports, released, primaries } = setUp();
    const lease = await exports.open('db', client);
    let revoked = 0;
    lease.onRevoked(() => revoked++);
    primaries[0]?.listeners.forEach((listener) =>
      listener(new StorError('STALE_EPOCH', 'superseded')),
    );
    await settle();
    t.equal(revoked, 1);
    t.same(released, [{ epoch: 1, clean: false }]);
  },
);

t.test('a client that goes before its volume is served does not keep it from others', async (t) => {
  const { exports, released, holdActivation } = setUp();
  let fail: (error: Error) => void = () => {};
  const gate = new Promise<void>((_resolve, reject) => (fail = reject));
  const status = (): object => ({
    epoch: 1,
    state: 'activating',
    reason: 'waiting for r-2',
    stateAgeMs: 7,
    segments: [],
  });
  holdActivation(gate, { status } as unknown as PrimaryVolume);
  const left = new AbortController();
  const opening = exports.open('db', { ...client, left: left.signal });
  opening.catch(() => {});
  await settle();
  t.match(exports.liveVolumes(), [
    { state: 'activating', reason: 'waiting for r-2', stateAgeMs: 7, connections: 1 },
  ]);
  t.equal(await exports.detach('v-1', 1, true), 'busy', 'it waits for it');
  left.abort();
  const detached = exports.detach('v-1', 1, true);
  t.match(exports.liveVolumes(), [{ state: 'stopping', connections: 0 }]);
  fail(new Error('called off'));
  t.equal(await detached, 'released');
  await t.rejects(opening);
  t.same(released, [{ epoch: 1, clean: false }]);
});

t.test('an attachment without clients stays while a replica is being filled', async (t) => {
  const { exports, released, clock, primaries } = setUp();
  const lease = await exports.open('db', client);
  const primary = primaries[0];
  if (!primary) throw new Error('no primary');
  const member = { replicaId: 'r-1', nodeId: 'n-1', state: 'syncing' as const, bytesRemaining: 90 };
  primary.members = [member];
  lease.release();
  for (; member.bytesRemaining > 0; member.bytesRemaining -= 10) {
    clock.advance(10_000);
    await settle();
  }
  t.same(released, [], 'elsewhere it would begin again');
  primary.members = [{ ...member, state: 'in-sync' }];
  clock.advance(1_000);
  await settle();
  t.same(released, [{ epoch: 1, clean: true }]);
});

t.test('an absent replica does not keep an attachment without clients', async (t) => {
  const { exports, released, clock, primaries } = setUp();
  const lease = await exports.open('db', client);
  const primary = primaries[0];
  if (!primary) throw new Error('no primary');
  primary.members = [{ replicaId: 'r-1', nodeId: 'n-1', state: 'absent', bytesRemaining: 90 }];
  lease.release();
  clock.advance(31_000);
  await settle();
  t.same(released, [{ epoch: 1, clean: true }]);
});

t.test(
  'a manual attachment stays without clients; a repair ends when all is in sync',
  async (t) => {
    const manual = setUp('manual');
    await manual.exports.attach(manual.grantOf());
    manual.clock.advance(600_000);
    await settle();
    t.same(manual.released, []);

    const repair = setUp('repair');
    await repair.exports.attach(repair.grantOf());
    const primary = repair.primaries[0];
    if (!primary) throw new Error('no primary');
    primary.members = [{ replicaId: 'r-1', nodeId: 'n-1', state: 'syncing', bytesRemaining: 100 }];
    for (let bytes = 100; bytes > 0; bytes -= 10) {
      primary.members[0]!.bytesRemaining = bytes;
      repair.clock.advance(10_000);
      await settle();
    }
    t.same(repair.released, [], 'it goes on while it moves');
    primary.members[0]!.state = 'in-sync';
    repair.clock.advance(1_000);
    await settle();
    t.same(repair.released, [{ epoch: 1, clean: true }]);
  },
);

t.test('an epoch that was given back never serves again (I6)', async (t) => {
  const { exports, clock, released, primaries } = setUp();
  const lease = await exports.open('db', client);
  const primary = primaries[0];
  if (!primary) throw new Error('no primary');
  let goOn = (): void => {};
  primary.stopGate = new Promise((resolve) => {
    goOn = resolve;
  });
  lease.release();
  clock.advance(31_000);
  await settle();
  t.equal(primary.stopped, 1, 'it is being given back');

  // an operator attaches by hand what the control plane still sees attached here
  const manual: AttachmentGrant = {
    volumeId: 'v-1',
    name: 'db',
    sizeBytes: 4096,
    epoch: 1,
    mode: 'manual',
    previousReleased: false,
    acceptUnflushedLoss: false,
    resourceVersion: 1,
    replicas: 1,
    policy: defaultPolicy(1),
    segments: [],
  };
  const early = t.rejects(exports.attach(manual), { code: 'STALE_EPOCH' });
  goOn();
  await early;
  await settle();
  t.same(released, [{ epoch: 1, clean: true }], 'the next primary need not wait');
  await t.rejects(exports.attach(manual), { code: 'STALE_EPOCH' }, 'nor after its end');
  t.equal(primaries.length, 1);
  t.same(exports.liveVolumes(), []);

  await exports.attach({ ...manual, epoch: 2 });
  t.equal(primaries.length, 2, 'a newer grant serves');
  await t.rejects(exports.attach(manual), { code: 'STALE_EPOCH' });
  t.match(exports.liveVolumes(), [{ epoch: 2 }], 'and an old one does not end it');
});

t.test('a primary that does not stop is given back as not clean, and blocks nobody', async (t) => {
  const { exports, clock, released, primaries } = setUp();
  await exports.open('db', client);
  const primary = primaries[0];
  if (!primary) throw new Error('no primary');
  primary.stopGate = new Promise(() => {});
  const detached = exports.detach('v-1', 1, false);
  const next = exports.open('db', client);
  await settle();
  t.same(released, []);
  clock.advance(15_000);
  t.equal(await detached, 'released');
  t.same(released, [{ epoch: 1, clean: false }]);
  await next;
  t.equal(primaries.length, 2);
});

t.test('a connection that comes in the turn of a detach gets no stopped primary', async (t) => {
  const { exports, primaries } = setUp();
  await exports.open('db', client);
  const late = exports.open('db', client);
  const detached = exports.detach('v-1', 1, false);
  await t.rejects(late, { code: 'UNAVAILABLE' });
  await detached;
  t.equal(primaries.length, 1);
});

t.test('when the agent stops nothing begins, and a grant that comes is given back', async (t) => {
  const { exports, released, primaries, holdGrants, grantOf } = setUp();
  let goOn = (): void => {};
  holdGrants(
    new Promise((resolve) => {
      goOn = resolve;
    }),
  );
  const opening = t.rejects(exports.open('db', client), { code: 'UNAVAILABLE' });
  await settle();
  await exports.close();
  goOn();
  await opening;
  t.same(released, [{ epoch: 1, clean: true }]);
  await t.rejects(exports.attach(grantOf()), { code: 'UNAVAILABLE' });
  t.same(primaries, []);
});

t.test('a volume is described in a line', async (t) => {
  const { exports } = setUp();
  t.equal(await exports.describe('db'), '20GiB, 3 replicas, env=prod tier=db');
});

t.test(
  'a published volume is served to who names its publication, and to nobody else',
  async (t) => {
    const { exports, published, primaries, grantOf } = setUp();
    const plain = await exports.open('db', client);
    let plainEnded = 0;
    plain.onRevoked(() => plainEnded++);
    await t.rejects(exports.open('published:u-1:db', client), { code: 'FAILED_PRECONDITION' });

    published.now = { resourceVersion: 2, publications: [{ id: 'u-1', readOnly: false }] };
    const host = await exports.open('published:u-1:db', client);
    t.equal(plainEnded, 1, 'what the primary has learned ends a connection without one');
    t.equal(host.readOnly, false);
    t.equal(host.name, 'db');
    plain.release();
    await t.rejects(exports.open('db', client), { code: 'FAILED_PRECONDITION' });
    await t.rejects(exports.open('published:u-0:db', client), { code: 'FAILED_PRECONDITION' });
    t.equal(primaries.length, 1);

    let hostEnded = 0;
    host.onRevoked(() => hostEnded++);
    const settings = { ...grantOf(), epoch: 1, resourceVersion: 1 };
    exports.updateVolume(settings);
    t.equal(hostEnded, 0, 'settings of before say nothing');
    const moved = [{ id: 'u-2', readOnly: true }];
    exports.updateVolume({ ...settings, resourceVersion: 3, publications: moved });
    t.equal(hostEnded, 1, 'its right has ended');
    const reader = await exports.open('published:u-2:db', client);
    t.equal(reader.readOnly, true);
    exports.updateVolume({ ...settings, resourceVersion: 4 });
    published.now = { resourceVersion: 4 };
    await t.rejects(exports.open('published:u-2:db', client), { code: 'FAILED_PRECONDITION' });
    await exports.open('db', client);
  },
);

t.test('who takes a published volume over is not served under an epoch that is over', async (t) => {
  const { exports, published, primaries, released, takeAway } = setUp();
  published.now = { resourceVersion: 2, publications: [{ id: 'u-1', readOnly: false }] };
  const old = await exports.open('published:u-1:db', client);
  let ended = 0;
  old.onRevoked(() => {
    ended += 1;
    old.release();
  });
  // its host is dead, this node is not: what was attached here is taken away without asking
  published.now = { resourceVersion: 3, publications: [{ id: 'u-2', readOnly: false }] };
  takeAway();
  const next = await exports.open('published:u-2:db', client);
  t.equal(ended, 1);
  t.same(released, [{ epoch: 1, clean: false }]);
  t.equal(primaries.length, 2, 'under an epoch of its own');
  t.equal(exports.liveVolumes()[0]?.epoch, 2);
  next.release();
});
