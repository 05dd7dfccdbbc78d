import assert from 'node:assert/strict';
import { hasCode, type ErrorCode } from '@stor/protocol';
import type { DeviceUser, HostVolumes, MountOrder } from '../host-volumes.ts';
import type { MemoryVolumes } from './memory-volumes.ts';

/** What a test of `hostVolumesSuite` runs on: two hosts of one cluster, `n1` and `n2`. */
export interface HostsUnderTest {
  volumes: MemoryVolumes;
  n1: HostVolumes;
  n2: HostVolumes;
  /** On n1 somebody has files open below a target, or a device; null: nobody any more. */
  setOpenFiles: (at: string, who: string | null) => void;
  /** The device of that volume on n1 does not work from now on. */
  breakDevice: (volume: string) => void;
}

export interface HostVolumesTest {
  name: string;
  run(world: HostsUnderTest): Promise<void>;
}

const signal = new AbortController().signal;
const gib = 2 ** 30;
const user: DeviceUser = 'storctl';

async function rejects(
  promise: Promise<unknown>,
  code: ErrorCode,
  message = /./,
): Promise<Readonly<Record<string, string>>> {
  try {
    await promise;
  } catch (error) {
    assert.ok(hasCode(error, code), `${code} is expected: ${String(error)}`);
    assert.match(error.message, message);
    return error.details;
  }
  throw new assert.AssertionError({ message: `${code} is expected, and nothing was thrown` });
}

/** Everything is as before anybody asked for anything. */
function isClean({ volumes, n1 }: HostsUnderTest, volume: string): void {
  assert.deepEqual(n1.list(), []);
  assert.deepEqual(volumes.publications(volume), []);
}

const order = (more: Partial<MountOrder> = {}): MountOrder => ({
  volume: 'db',
  user,
  target: '/mnt/db',
  ...more,
});

/** What every HostVolumes does; each test gets a world of its own. */
export const hostVolumesSuite: readonly HostVolumesTest[] = [
  {
    name: 'attach makes a device once, and detach ends it with its publication',
    async run(world) {
      const { volumes, n1 } = world;
      const { metadata } = volumes.add('db', { sizeBytes: gib });
      const made = await n1.attach({ volume: 'db', user }, signal);
      const { volumeId, volume, sizeBytes, readOnly, users, mounts, failure } = made;
      assert.deepEqual(
        { volumeId, volume, sizeBytes, readOnly, users, mounts, failure },
        {
          ...{ volumeId: metadata.id, volume: 'db', sizeBytes: gib, readOnly: false },
          ...{ users: [user], mounts: [], failure: null },
        },
      );
      assert.match(made.path, /^\/dev\/[a-z]+[0-9]+$/);
      assert.deepEqual(
        volumes.publications('db').map(({ id, node }) => [id, node]),
        [[made.publication, 'n1']],
      );
      assert.deepEqual(await n1.attach({ volume: metadata.id, user }, signal), made);
      assert.deepEqual(n1.list(), [made]);
      await n1.detach({ volume: 'db', user }, signal);
      isClean(world, 'db');
      await n1.detach({ volume: 'db', user }, signal);
      await n1.detach({ volume: 'never', user }, signal);
    },
  },
  {
    name: 'what cannot be attached is refused, and leaves nothing',
    async run(world) {
      const { volumes, n1 } = world;
      volumes.add('db');
      await rejects(n1.attach({ volume: 'nothing', user }, signal), 'NOT_FOUND');
      await n1.attach({ volume: 'db', user, readOnly: true }, signal);
      await rejects(n1.attach({ volume: 'db', user }, signal), 'ALREADY_EXISTS', /read-only/);
      await n1.detach({ volume: 'db', user }, signal);
      isClean(world, 'db');
    },
  },
  {
    name: 'a volume is a device of one host, until that host is dead',
    async run({ volumes, n1, n2 }) {
      volumes.add('db');
      await n1.attach({ volume: 'db', user }, signal);
      const details = await rejects(
        n2.attach({ volume: 'db', user }, signal),
        'ATTACHED_ELSEWHERE',
        /node n1/,
      );
      assert.equal(details['holder'], 'n1');
      assert.deepEqual(n2.list(), []);
      volumes.setNode('n1', 'down');
      await n2.attach({ volume: 'db', user }, signal);
      assert.deepEqual(
        volumes.publications('db').map(({ node }) => node),
        ['n2'],
      );
    },
  },
  {
    name: 'a device ends with its last user',
    async run(world) {
      const { volumes, n1 } = world;
      volumes.add('db');
      await n1.attach({ volume: 'db', user: 'docker' }, signal);
      await n1.attach({ volume: 'db', user: 'storctl' }, signal);
      await n1.attach({ volume: 'db', user: 'storctl' }, signal);
      await n1.detach({ volume: 'db', user: 'storctl' }, signal);
      assert.deepEqual(n1.list()[0]?.users, ['docker']);
      await n1.detach({ volume: 'db', user: 'csi' }, signal);
      assert.equal(n1.list().length, 1, 'whoever does not use it ends nothing');
      await n1.detach({ volume: 'db', user: 'docker' }, signal);
      isClean(world, 'db');
    },
  },
  {
    name: 'the publication stays when somebody else ends it',
    async run({ volumes, n1 }) {
      volumes.add('db');
      const request = { name: 'db', node: 'n1', owner: 'csi' };
      const published = await volumes.publishVolume(request);
      const [own] = published.status.publications;
      const made = await n1.attach({ volume: 'db', user: 'csi' }, signal);
      assert.equal(made.publication, own?.id);
      await n1.detach({ volume: 'db', user: 'csi', keepPublication: true }, signal);
      assert.deepEqual(n1.list(), []);
      assert.deepEqual(
        volumes.publications('db').map(({ id }) => id),
        [own?.id],
      );
    },
  },
  {
    name: 'a first mount makes a file system, later ones find it, and unmount ends all',
    async run(world) {
      const { volumes, n1, n2 } = world;
      volumes.add('db');
      const mount = await n1.mount(order({ options: ['noatime'] }), signal);
      const wanted = { target: '/mnt/db', fileSystem: 'ext4', readOnly: false };
      assert.deepEqual(mount, { ...wanted, options: ['noatime'], user });
      assert.equal(volumes.content('db').fileSystem, 'ext4');
      assert.deepEqual(n1.list()[0]?.mounts, [mount]);
      assert.deepEqual(await n1.mount(order({ options: ['noatime'] }), signal), mount);
      assert.equal(n1.list()[0]?.mounts.length, 1);
      await n1.unmount({ target: '/mnt/db', user }, signal);
      isClean(world, 'db');
      await n1.unmount({ target: '/mnt/db', user }, signal);
      await n1.unmount({ target: '/mnt/other', user }, signal);
      assert.equal((await n2.mount(order(), signal)).fileSystem, 'ext4');
    },
  },
  {
    name: 'no volume with anything on it is formatted',
    async run(world) {
      const { volumes, n1 } = world;
      for (const name of ['swap', 'raw', 'xfs', 'none']) volumes.add(name);
      volumes.content('swap').foreign = 'swap';
      volumes.content('raw').hasData = true;
      const xfs = { fileSystem: 'xfs' as const };
      Object.assign(volumes.content('xfs'), xfs);
      const mount = (volume: string, more: Partial<MountOrder> = {}): Promise<unknown> =>
        n1.mount(order({ volume, ...more }), signal);
      await rejects(mount('swap'), 'FOREIGN_DATA', /swap/);
      await rejects(mount('raw'), 'FOREIGN_DATA', /data/);
      await rejects(mount('xfs', { fileSystem: 'ext4' }), 'FOREIGN_DATA', /xfs/);
      await rejects(mount('none', { readOnly: true }), 'FAILED_PRECONDITION', /no file system/);
      for (const name of ['swap', 'raw', 'xfs', 'none']) isClean(world, name);
      assert.equal(volumes.content('swap').fileSystem, null);
      assert.equal(volumes.content('raw').fileSystem, null);
      assert.deepEqual(await mount('xfs'), {
        ...{ target: '/mnt/db', ...xfs, readOnly: false, options: [], user },
      });
    },
  },
  {
    name: 'a target has one mount, and orders that cannot be meant are refused',
    async run({ volumes, n1 }) {
      volumes.add('db');
      volumes.add('other');
      await n1.mount(order(), signal);
      for (const change of [
        { volume: 'other' },
        { readOnly: true },
        { options: ['noatime'] },
        { user: 'docker' as const },
      ]) {
        await rejects(n1.mount(order(change), signal), 'ALREADY_EXISTS', /\/mnt\/db/);
      }
      assert.deepEqual(volumes.publications('other'), []);
      assert.equal(n1.list().length, 1);
      for (const bad of [
        { target: 'mnt/db' },
        { target: '/' },
        { target: '/mnt/../etc' },
        { options: ['ro'] },
        { options: ['a,b'] },
        { formatOptions: ['/dev/sda'] },
      ]) {
        await rejects(n1.mount(order({ volume: 'other', ...bad }), signal), 'INVALID_ARGUMENT');
      }
      await rejects(n1.mount(order({ volume: 'no', target: '/mnt/no' }), signal), 'NOT_FOUND');
    },
  },
  {
    name: 'one device has several mounts, and goes with the last of a user',
    async run(world) {
      const { volumes, n1 } = world;
      volumes.add('db');
      await n1.mount(order(), signal);
      await n1.mount(order({ target: '/mnt/two' }), signal);
      const readOnly = { target: '/mnt/three', readOnly: true, user: 'csi' as const };
      assert.equal((await n1.mount(order(readOnly), signal)).readOnly, true);
      assert.equal(n1.list()[0]?.mounts.length, 3);
      await rejects(
        n1.unmount({ target: '/mnt/three', user }, signal),
        'FAILED_PRECONDITION',
        /csi/,
      );
      await n1.unmount({ target: '/mnt/db', user }, signal);
      assert.deepEqual(n1.list()[0]?.users.toSorted(), ['csi', user]);
      await n1.unmount({ target: '/mnt/two', user }, signal);
      assert.deepEqual(n1.list()[0]?.users, ['csi']);
      await n1.unmount({ target: '/mnt/three', user: 'csi', keepAttached: true }, signal);
      assert.deepEqual(n1.list()[0]?.mounts, []);
      await n1.detach({ volume: 'db', user: 'csi' }, signal);
      isClean(world, 'db');
    },
  },
  {
    name: 'what is in use stays, with the name of who uses it, unless it is forced',
    async run(world) {
      const { volumes, n1, setOpenFiles } = world;
      volumes.add('db');
      await n1.mount(order(), signal);
      await rejects(n1.detach({ volume: 'db', user }, signal), 'FAILED_PRECONDITION', /\/mnt\/db/);
      setOpenFiles('/mnt/db', 'postgres (4711)');
      await rejects(n1.unmount({ target: '/mnt/db', user }, signal), 'IN_USE', /postgres/);
      assert.equal(n1.list()[0]?.mounts.length, 1);
      setOpenFiles('/mnt/db', null);
      const path = n1.list()[0]?.path ?? '';
      setOpenFiles(path, 'dd (12)');
      await rejects(
        n1.unmount({ target: '/mnt/db', user }, signal),
        'FAILED_PRECONDITION',
        /dd \(12\)/,
      );
      setOpenFiles(path, null);
      // the same order again ends what the first one has begun
      await n1.unmount({ target: '/mnt/db', user }, signal);
      isClean(world, 'db');
      await n1.mount(order({ user: 'docker' }), signal);
      setOpenFiles('/mnt/db', 'postgres (4711)');
      await n1.detach({ volume: 'db', user, force: true }, signal);
      isClean(world, 'db');
    },
  },
  {
    name: 'a mount that fails leaves nothing behind, but what was there',
    async run(world) {
      const { volumes, n1 } = world;
      volumes.add('db');
      volumes.content('db').foreign = 'LVM2_member';
      await n1.attach({ volume: 'db', user: 'docker' }, signal);
      const before = n1.list();
      await rejects(n1.mount(order(), signal), 'FOREIGN_DATA');
      assert.deepEqual(n1.list(), before);
    },
  },
  {
    name: 'device and file system grow with the volume',
    async run({ volumes, n1 }) {
      volumes.add('db', { sizeBytes: gib });
      await rejects(n1.grow('db', signal), 'NOT_FOUND');
      await n1.mount(order(), signal);
      assert.equal((await n1.stats('/mnt/db')).totalBytes, gib);
      volumes.resize('db', 2 * gib);
      assert.equal((await n1.grow('db', signal)).sizeBytes, 2 * gib);
      assert.equal((await n1.stats('/mnt/db')).totalBytes, 2 * gib);
      await rejects(n1.stats('/mnt/none'), 'NOT_FOUND');
      await n1.unmount({ target: '/mnt/db', user }, signal);
      // grown while it was nowhere
      volumes.resize('db', 3 * gib);
      await n1.mount(order(), signal);
      assert.equal((await n1.stats('/mnt/db')).totalBytes, 3 * gib);
    },
  },
  {
    name: 'orders for one volume go one after another',
    async run(world) {
      const { volumes, n1 } = world;
      volumes.add('db');
      const made = await Promise.all(
        Array.from({ length: 10 }, () => n1.attach({ volume: 'db', user }, signal)),
      );
      assert.equal(new Set(made.map(({ publication }) => publication)).size, 1);
      assert.equal(n1.list().length, 1);
      await n1.detach({ volume: 'db', user }, signal);
      await Promise.all([
        n1.mount(order(), signal),
        n1.unmount({ target: '/mnt/db', user }, signal),
      ]);
      isClean(world, 'db');
    },
  },
  {
    name: 'an order that was given up before it began does nothing',
    async run(world) {
      const { volumes, n1 } = world;
      volumes.add('db');
      const aborted = AbortSignal.abort();
      await rejects(n1.attach({ volume: 'db', user }, aborted), 'ABORTED');
      await rejects(n1.mount(order(), aborted), 'ABORTED');
      isClean(world, 'db');
    },
  },
  {
    name: 'a device that lost its volume is made anew once nothing is mounted on it',
    async run(world) {
      const { volumes, n1 } = world;
      volumes.add('db');
      await n1.mount(order(), signal);
      const first = n1.list()[0]?.publication;
      await volumes.unpublishVolume({ name: 'db', node: '', force: true });
      world.breakDevice('db');
      // what is mounted is of no use, so it is not answered as if it were
      await rejects(n1.mount(order(), signal), 'FAILED_PRECONDITION', /does not work/);
      await rejects(
        n1.attach({ volume: 'db', user }, signal),
        'FAILED_PRECONDITION',
        /unmount \/mnt\/db/,
      );
      await n1.unmount({ target: '/mnt/db', user, keepAttached: true }, signal);
      const made = await n1.attach({ volume: 'db', user }, signal);
      assert.notEqual(made.publication, first);
      assert.equal(made.failure, null);
    },
  },
  {
    name: 'close waits for orders, and refuses nobody what is there',
    async run({ volumes, n1 }) {
      volumes.add('db');
      const attaching = n1.attach({ volume: 'db', user }, signal);
      await attaching;
      await n1.close();
      await n1.close();
      assert.equal(n1.list().length, 1);
    },
  },
];
