import { StorError } from '@stor/protocol';
import t from 'tap';
import { leftoverRetryMs, longCallMs, repeatMs } from '../src/core/limits.ts';
import { errorOf, MemoryCluster, mountDir, PluginRig, settle } from './plugin-rig.ts';

const mount = (ID: string, Name = 'db'): { Name: string; ID: string } => ({ Name, ID });

/** A rig whose cluster has the volume `db`. */
async function rigWithVolume(
  options: Parameters<typeof PluginRig.open>[0] = {},
): Promise<PluginRig> {
  const rig = await PluginRig.open(options);
  rig.cluster.volumes.add('db');
  return rig;
}

t.test('a volume is mounted once for all its containers', async (t) => {
  const rig = await rigWithVolume();
  const { id } = rig.cluster.volumes.find('db').metadata;
  const first = await rig.send('Mount', mount('c1'));
  t.same(first.body, { Mountpoint: `${mountDir}/${id}/stor-data`, Err: '' });
  t.same((await rig.send('Mount', mount('c2'))).body, first.body);
  t.same(rig.hosts.calls, [`mount ${id} ${mountDir}/${id} docker`]);
  await rig.send('Unmount', mount('c1'));
  t.ok(rig.isMounted('db'));
  await rig.send('Unmount', mount('c2'));
  t.notOk(rig.isMounted('db'));
  t.same(rig.cluster.volumes.publications('db'), []);
  t.same(rig.hosts.list(), []);
});

t.test('mkfs and mount are told what the volume says', async (t) => {
  const rig = await PluginRig.open({ defaults: { 'mount-options': 'noatime' } });
  const Opts = { size: '1GiB', fs: 'xfs', 'mkfs-options': '-m reflink=0' };
  t.equal(await rig.error('Create', { Name: 'db', Opts }), '');
  t.equal(await rig.error('Mount', mount('c1')), '');
  t.equal(rig.cluster.volumes.content('db').fileSystem, 'xfs');
  t.match(rig.hosts.list()[0]?.mounts, [{ fileSystem: 'xfs', options: ['noatime'] }]);
});

t.test('files that somebody else has put on a volume are given to containers', async (t) => {
  const rig = await rigWithVolume();
  const { id } = rig.cluster.volumes.find('db').metadata;
  await rig.folders.make(`${mountDir}/${id}/lost+found`);
  await rig.folders.make(`${mountDir}/${id}/report`);
  t.match((await rig.send('Mount', mount('c1'))).body, { Mountpoint: `${mountDir}/${id}` });
  t.equal(await rig.error('Unmount', mount('c1')), '');
  t.notOk(rig.isMounted('db'));
});

t.test('a volume of a host that lives is refused with its name', async (t) => {
  const cluster = new MemoryCluster();
  const [one, two] = [
    await rigWithVolume({ cluster }),
    await PluginRig.open({ cluster, name: 'n2' }),
  ];
  t.equal(await one.error('Mount', mount('c1')), '');
  const refused = two.error('Mount', mount('c2'));
  await two.advance(10_000);
  t.match(await refused, /used as a device on node n1/);
  t.same(two.hosts.list(), []);

  await t.test('and taken from one whose lease ends meanwhile', async (t) => {
    const taken = two.error('Mount', mount('c2'));
    await two.advance(3_000);
    cluster.volumes.setNode('n1', 'down');
    await two.advance(1_000);
    t.equal(await taken, '');
    t.ok(two.isMounted('db'));
  });
});

t.test('a call that takes too long says what it waits for', async (t) => {
  const rig = await rigWithVolume();
  const release = rig.hosts.hold('mount');
  const first = rig.error('Mount', mount('c1'));
  const second = rig.error('Mount', mount('c2'));
  await rig.advance(longCallMs, 10_000);
  t.match(await first, /Mount of volume db did not end within 110 s: it waits for .*mounted/);
  t.match(await second, /it waits for an earlier call for this volume/);
  release();
  await settle();
  t.ok(rig.isMounted('db'), 'the order was carried through');
  await rig.advance(repeatMs, 10_000);
  t.notOk(rig.isMounted('db'), 'and ended, as nobody knows of it');
});

t.test('what fails leaves nothing behind', async (t) => {
  const rig = await rigWithVolume();
  rig.cluster.volumes.content('db').foreign = 'swap';
  t.match(await rig.error('Mount', mount('c1')), /carries swap/);
  t.same(rig.hosts.list(), []);
  t.same(rig.cluster.volumes.publications('db'), []);
  rig.cluster.volumes.content('db').foreign = '';
  rig.files.hook = (operation) => (operation === 'create' ? 'ENOSPC' : null);
  t.match(await rig.error('Mount', mount('c1')), /ENOSPC/, 'the table cannot be written');
  t.notOk(rig.isMounted('db'));
  t.same((await rig.send('Path', { Name: 'db' })).body, { Mountpoint: '', Err: '' });
});

t.test('the cluster is asked again while it cannot answer', async (t) => {
  const rig = await rigWithVolume();
  const unavailable = new StorError('UNAVAILABLE', 'there is no quorum');
  rig.cluster.api.failNext('getVolume', unavailable);
  const mounted = rig.error('Mount', mount('c1'));
  await rig.advance(1_000);
  t.equal(await mounted, '');
  rig.cluster.api.failNext('getVolume', unavailable);
  rig.cluster.api.failNext('createVolume', new StorError('OUTCOME_UNKNOWN', 'cut off'));
  const created = rig.error('Create', { Name: 'new', Opts: { size: '1GiB' } });
  await rig.advance(1_000);
  t.equal(await created, '');
  rig.cluster.api.failNext('deleteVolume', new StorError('OUTCOME_UNKNOWN', 'cut off'));
  const removed = rig.error('Remove', { Name: 'new' });
  await rig.advance(1_000);
  t.equal(await removed, '');
  t.same(rig.cluster.api.calls, ['create new', 'create new', 'delete new', 'delete new']);

  await t.test('but not for what is used here', async (t) => {
    for (let calls = 0; calls < 2; calls++) rig.cluster.api.failNext('getVolume', unavailable);
    t.equal(await rig.error('Mount', mount('c2')), '');
    const shown = (await rig.send('Get', { Name: 'db' })).body as { Volume: object };
    t.match(shown.Volume, { Name: 'db', Mountpoint: /stor-data/, Status: { health: 'unknown' } });
    t.match(await rig.error('Get', { Name: 'other' }), /no quorum/);
  });
});

t.test('a volume that is being made by somebody is waited for, and not shown', async (t) => {
  const rig = await rigWithVolume();
  const volume = rig.cluster.volumes.find('db');
  volume.status.health = 'creating';
  t.match(await rig.error('Get', { Name: 'db' }), /does not exist/);
  t.same((await rig.send('List', {})).body, { Volumes: [], Err: '' });
  const [created, mounted] = [rig.error('Create', { Name: 'db' }), rig.error('Mount', mount('c1'))];
  await rig.advance(2_000);
  volume.status.health = 'healthy';
  await rig.advance(1_000);
  t.same(await Promise.all([created, mounted]), ['', '']);
  t.same(rig.cluster.api.calls, []);
});

t.test('what somebody has open stays mounted until it can be unmounted', async (t) => {
  const rig = await rigWithVolume();
  const { id } = rig.cluster.volumes.find('db').metadata;
  const target = `${mountDir}/${id}`;
  await rig.send('Mount', mount('c1'));
  rig.hosts.setOpenFiles(target, 'bash (1234)');
  t.match(await rig.error('Unmount', mount('c1')), /bash \(1234\) has files open/);
  t.match(await rig.error('Remove', { Name: 'db' }), /bash \(1234\)/);
  t.equal(await rig.error('Unmount', mount('c1')), '', 'the container is not counted any more');
  t.ok(rig.isMounted('db'));
  rig.hosts.setOpenFiles(target, null);
  await rig.advance(leftoverRetryMs + 1_000, 1_000);
  t.notOk(rig.isMounted('db'));
  t.equal(await rig.error('Remove', { Name: 'db' }), '');

  await t.test('but not when a container has it again', async (t) => {
    rig.cluster.volumes.add('db');
    await rig.send('Mount', mount('c1'));
    const again = `${mountDir}/${rig.cluster.volumes.find('db').metadata.id}`;
    rig.hosts.setOpenFiles(again, 'bash (1234)');
    await rig.send('Unmount', mount('c1'));
    await rig.send('Mount', mount('c2'));
    rig.hosts.setOpenFiles(again, null);
    await rig.advance(3 * leftoverRetryMs, 1_000);
    t.ok(rig.isMounted('db'));
  });
});

t.test('a call whose answer did not arrive is counted once', async (t) => {
  const rig = await rigWithVolume();
  const lose = async (call: string, ID: string): Promise<void> => {
    t.equal(errorOf(await rig.lose(call, mount(ID))), '');
  };

  await lose('Mount', 'c1');
  await lose('Mount', 'c1');
  t.equal(await rig.error('Mount', mount('c1')), '', 'dockerd asks a third time');
  await rig.advance(2 * repeatMs, 10_000);
  t.ok(rig.isMounted('db'));
  t.equal(await rig.error('Unmount', mount('c1')), '');
  t.notOk(rig.isMounted('db'), 'one unmount is enough');

  await lose('Mount', 'c1');
  await rig.advance(repeatMs, 10_000);
  t.notOk(rig.isMounted('db'), 'dockerd does not ask again');

  await rig.send('Mount', mount('c1'));
  await rig.send('Mount', mount('c1'));
  await lose('Unmount', 'c1');
  await rig.send('Unmount', mount('c1'));
  t.ok(rig.isMounted('db'), 'docker cp has ended, the container runs');
  await rig.send('Unmount', mount('c1'));
  t.notOk(rig.isMounted('db'));

  await rig.send('Mount', mount('c1'));
  await lose('Unmount', 'c1');
  await rig.send('Unmount', mount('c1'));
  await rig.send('Mount', mount('c1'));
  await rig.send('Unmount', mount('c1'));
  t.notOk(rig.isMounted('db'), 'of the last unmount there is nothing to remember');

  await lose('Mount', 'c1');
  await rig.restart();
  await rig.send('Mount', mount('c1'));
  await rig.send('Unmount', mount('c1'));
  t.notOk(rig.isMounted('db'), 'an agent that stops does not count it');
});

t.test('an agent that stops cuts off what the next one can do', async (t) => {
  const rig = await rigWithVolume();
  const release = rig.hosts.hold('mount');
  const pending = rig.send('Mount', mount('c1'));
  const waiting = rig.send('Mount', mount('c2'));
  await settle();
  const stopped = rig.stop();
  await settle();
  release();
  await stopped;
  t.match(await waiting, { isCut: true });
  t.match(await pending, { status: 200 });
  t.match(await rig.send('Mount', mount('c3')), { isCut: true });
  await rig.stop();
});

t.test('a new agent finds what the old one has left', async (t) => {
  const rig = await rigWithVolume();
  rig.cluster.volumes.add('web');
  await rig.send('Mount', mount('c1'));
  await rig.send('Mount', mount('c1'));
  await rig.send('Mount', mount('c2', 'web'));
  await rig.kill();
  await rig.send('Unmount', mount('c1'));
  t.ok(rig.isMounted('db'), 'the count has outlived the agent');
  await rig.send('Unmount', mount('c1'));
  t.notOk(rig.isMounted('db'));

  await t.test('a mount that nobody has counted goes', async (t) => {
    const { id } = rig.cluster.volumes.find('db').metadata;
    const { signal } = new AbortController();
    const target = `${mountDir}/${id}`;
    await rig.hosts.mount({ volume: 'db', user: 'docker', target }, signal);
    await rig.kill();
    t.notOk(rig.isMounted('db'));
    t.ok(rig.isMounted('web'));
  });

  await t.test('a device without a mount goes, and those of others stay', async (t) => {
    const { signal } = new AbortController();
    await rig.hosts.attach({ volume: 'db', user: 'docker' }, signal);
    await rig.hosts.attach({ volume: 'db', user: 'storctl' }, signal);
    await rig.kill();
    const devices = rig.hosts.list().map(({ volume, users }) => [volume, users]);
    t.same(devices, [
      ['web', ['docker']],
      ['db', ['storctl']],
    ]);
  });

  await t.test('what is not mounted any more is used by nobody', async (t) => {
    const { signal } = new AbortController();
    const { id } = rig.cluster.volumes.find('web').metadata;
    await rig.hosts.unmount({ target: `${mountDir}/${id}`, user: 'docker' }, signal);
    await rig.kill();
    t.equal(await rig.error('Remove', { Name: 'web' }), '');
  });

  await t.test('after a reboot nothing is counted', async (t) => {
    await rig.send('Mount', mount('c1'));
    await rig.reboot();
    t.same((await rig.send('Path', { Name: 'db' })).body, { Mountpoint: '', Err: '' });
    await rig.send('Mount', mount('c1'));
    await rig.send('Unmount', mount('c1'));
    t.notOk(rig.isMounted('db'));
  });
});

t.test('nothing is given to containers that is not mounted, or fails', async (t) => {
  const rig = await rigWithVolume();
  const { id } = rig.cluster.volumes.find('db').metadata;
  const target = `${mountDir}/${id}`;
  await rig.send('Mount', mount('c1'));
  rig.folders.bare.add(target);
  const before = rig.hosts.calls.length;
  await rig.send('Mount', mount('c2'));
  t.same(rig.hosts.calls.slice(before), [`mount ${id} ${target} docker`], 'it is mounted again');
  rig.folders.bare.clear();

  rig.hosts.setFailure('db', 'its right has ended');
  t.match(await rig.error('Mount', mount('c3')), /its device fails \(its right has ended\)/);
  await rig.send('Unmount', mount('c1'));
  rig.hosts.setOpenFiles(target, 'bash (1234)');
  await rig.send('Unmount', mount('c2'));
  t.ok(rig.isMounted('db'));
  rig.hosts.setOpenFiles(target, null);
  t.equal(await rig.error('Mount', mount('c3')), '', 'nobody uses it any more: it is made anew');
  t.match(rig.hosts.list(), [{ failure: null }]);
});

t.test('more calls than a host makes are refused', async (t) => {
  const rig = await rigWithVolume();
  const release = rig.hosts.hold('mount');
  const calls = Array.from({ length: 600 }, (_, at) => rig.error('Mount', mount(`c${at}`)));
  await settle();
  release();
  const errors = await Promise.all(calls);
  t.equal(errors.filter((error) => error === '').length, 512);
  t.match(errors[599], /512 calls for volume db wait/);
});
