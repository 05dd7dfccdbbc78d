import path from 'node:path';
import type { Test } from 'tap';
import { maxBodyBytes, maxCallerIdLength } from '../core/limits.ts';
import { callPlugin } from './call-plugin.ts';

/** The plug-ins of two hosts of one cluster, and what the suite cannot know of them. */
export interface ComplianceTarget {
  /** sockets */
  first: string;
  second: string;
  /** name of the first host's node */
  firstNode: string;
  /** what fits on the cluster's disks, as `-o size` */
  size: string;
}

type Opts = Record<string, string>;

interface ShownVolume {
  Name: string;
  Mountpoint: string;
  CreatedAt: string;
  Status: Record<string, unknown>;
}

/** The calls of one host, as dockerd makes them. `error` '': it went well. */
class Host {
  readonly #socket: string;

  constructor(socket: string) {
    this.#socket = socket;
  }

  async send(call: string, body: unknown): Promise<{ error: string } & Record<string, unknown>> {
    const { body: answer } = await callPlugin(this.#socket, `/VolumeDriver.${call}`, body);
    const { Err = '' } = answer as { Err?: string };
    return { ...answer, error: Err };
  }

  async error(call: string, body: unknown): Promise<string> {
    return (await this.send(call, body)).error;
  }

  create(Name: string, Opts?: Opts): Promise<string> {
    return this.error('Create', { Name, ...(Opts ? { Opts } : {}) });
  }

  remove(Name: string): Promise<string> {
    return this.error('Remove', { Name });
  }

  async mount(Name: string, ID: string): Promise<string> {
    const { error, Mountpoint } = await this.send('Mount', { Name, ID });
    if (error !== '') throw new Error(error);
    return String(Mountpoint);
  }

  unmount(Name: string, ID: string): Promise<string> {
    return this.error('Unmount', { Name, ID });
  }

  async path(Name: string): Promise<string> {
    return String((await this.send('Path', { Name }))['Mountpoint']);
  }

  async get(Name: string): Promise<ShownVolume> {
    const { error, Volume } = await this.send('Get', { Name });
    if (error !== '') throw new Error(error);
    return Volume as ShownVolume;
  }

  async list(): Promise<ShownVolume[]> {
    return (await this.send('List', {}))['Volumes'] as ShownVolume[];
  }
}

/** What dockerd may rely on, and every way in which it, or somebody else, may ask wrongly. */
export async function pluginCompliance(t: Test, target: ComplianceTarget): Promise<void> {
  const first = new Host(target.first);
  const second = new Host(target.second);
  const { size } = target;
  await t.test('requests', (t) => requests(t, target.first));
  await t.test('what a call must carry', (t) => bodies(t, first));
  await t.test('Create', (t) => creations(t, first, size));
  await t.test('Get, List and Path', (t) => looks(t, first, size));
  await t.test('Mount and Unmount', (t) => mounts(t, { first, second, target }));
  await t.test('Remove', (t) => removals(t, { first, second, target }));
  await t.test('at the same time', (t) => together(t, { first, second, target }));
}

async function requests(t: Test, socket: string): Promise<void> {
  const type = 'application/vnd.docker.plugins.v1.2+json';
  for (const contentType of [type, 'application/vnd.docker.plugins.v1.1+json', 'text/plain', '']) {
    const activated = await callPlugin(socket, '/Plugin.Activate', '', { contentType });
    t.same(activated, { status: 200, contentType: type, body: { Implements: ['VolumeDriver'] } });
  }
  const { body } = await callPlugin(socket, '/VolumeDriver.Capabilities', {});
  t.same(body, { Capabilities: { Scope: 'global' } });

  for (const path of ['/', '/VolumeDriver.Nothing', '/volumedriver.create', '/Plugin.Activate/x']) {
    const answer = await callPlugin(socket, path, {});
    t.equal(answer.status, 404, path);
    t.equal(answer.contentType, type);
    t.match(answer.body['Err'], /there is no call/);
  }
  for (const method of ['GET', 'PUT', 'DELETE']) {
    const answer = await callPlugin(socket, '/VolumeDriver.List', '', { method });
    t.equal(answer.status, 405, method);
    t.match(answer.body['Err'], /POST/);
  }
  for (const text of ['{', 'Name=db', '{"Name":"db"}}', '\u0000']) {
    const answer = await callPlugin(socket, '/VolumeDriver.Get', text);
    t.equal(answer.status, 400, JSON.stringify(text));
    t.match(answer.body['Err'], /no JSON/);
  }
  const large = JSON.stringify({ Name: 'x'.repeat(maxBodyBytes) });
  const answer = await callPlugin(socket, '/VolumeDriver.Create', large);
  t.equal(answer.status, 413);
  t.match(answer.body['Err'], /larger than/);
  const { status } = await callPlugin(socket, '/VolumeDriver.List', {});
  t.equal(status, 200, 'it serves still');
}

async function bodies(t: Test, host: Host): Promise<void> {
  for (const call of ['Create', 'Remove', 'Mount', 'Unmount', 'Path', 'Get']) {
    const ID = 'c1';
    for (const body of [{ ID }, { ID, Name: '' }, { ID, Name: 7 }, { ID, Name: null }]) {
      t.match(await host.error(call, body), /Name/, `${call} ${JSON.stringify(body)}`);
    }
    for (const body of [[], 7, null, '"db"', true]) {
      t.match(await host.error(call, body), /not valid/, `${call} ${JSON.stringify(body)}`);
    }
  }
  for (const call of ['Mount', 'Unmount']) {
    const Name = 'db';
    const long = 'x'.repeat(maxCallerIdLength + 1);
    for (const body of [{ Name }, { Name, ID: '' }, { Name, ID: 7 }, { Name, ID: long }]) {
      t.match(await host.error(call, body), /ID/, `${call} ${JSON.stringify(body)}`);
    }
  }
  for (const Opts of [[], 'size=1GiB', { size: 7 }, { size: null }]) {
    t.match(await host.error('Create', { Name: 'db', Opts }), /Opts/, JSON.stringify(Opts));
  }
}

async function creations(t: Test, host: Host, size: string): Promise<void> {
  t.match(await host.create('a/b'), /name "a\/b" is not valid/);
  t.match(await host.create('db', { sise: size }), /"sise" is not known \(did you mean size\?\)/);
  t.match(await host.create('db', { encryption: 'on' }), /not supported yet/);
  t.match(await host.create('db', { 'backup-schedule': 'daily' }), /not supported yet/);
  t.match(await host.create('db', { size: 'large' }), /size "large"/);
  t.match(await host.create('db', { size, replicas: '99' }), /replicas=99/);
  t.match(await host.create('db', { size, fs: 'ntfs' }), /ext4 and xfs/);
  t.match(await host.create('db', { from: 'nothing' }), /"nothing"/);
  t.match(await host.create('db', { from: 'x', replicas: '1' }), /replicas does not go with from/);
  await t.rejects(host.get('db'), /does not exist/, 'nothing of that has made a volume');

  const options = { size, replicas: '2', labels: 'app=web', 'mount-options': 'noatime' };
  t.equal(await host.create('db', options), '');
  t.equal(await host.create('db', options), '', 'once more');
  t.equal(await host.create('db'), '', 'as docker run does it');
  t.match(await host.create('db', { size: '777MiB' }), /size: .*, not 777MiB/);
  t.match(
    await host.create('db', { replicas: '3', labels: 'app=db' }),
    /replicas: 2, not 3; label app: web, not db/,
  );
  t.match(await host.create('db', { fs: 'xfs' }), /fs: ext4, not xfs/);
  t.equal(await host.create('db2', { from: 'db' }), '', 'a clone');
  t.equal(await host.create('db2', { from: 'db' }), '', 'once more');
  t.match(await host.create('db2', { from: 'other' }), /from: db, not other/);
  t.match(await host.create('db', { from: 'db2' }), /from: none, not db2/);
  for (const name of ['db', 'db2']) t.equal(await host.remove(name), '');
}

async function looks(t: Test, host: Host, size: string): Promise<void> {
  t.equal(await host.path('db'), '', 'Path of a volume that there is not');
  await t.rejects(host.get('db'), /volume "db" does not exist/);
  t.equal(await host.create('db', { size, replicas: '2' }), '');
  const shown = await host.get('db');
  t.match(shown, { Name: 'db', Mountpoint: '', Status: { replicas: 2, nodes: [], fs: 'ext4' } });
  t.ok(Date.parse(shown.CreatedAt) > 0, shown.CreatedAt);
  t.same((await host.list()).filter(({ Name }) => Name === 'db').length, 1);
  await t.rejects(host.get(String(shown.Status['id'])), /does not exist/, 'an id is no name');
  t.equal(await host.remove('db'), '');
  t.same((await host.list()).filter(({ Name }) => Name === 'db').length, 0);
}

interface Hosts {
  first: Host;
  second: Host;
  target: ComplianceTarget;
}

async function mounts(t: Test, { first, second, target }: Hosts): Promise<void> {
  await t.rejects(first.mount('db', 'c1'), /volume "db" does not exist/);
  t.equal(await first.unmount('db', 'c1'), '', 'of a volume that there is not');
  t.equal(await first.create('db', { size: target.size, replicas: '2' }), '');
  t.equal(await first.unmount('db', 'c1'), '', 'of one that is not mounted');

  const at = await first.mount('db', 'c1');
  t.ok(path.isAbsolute(at), at);
  t.equal(await first.path('db'), at);
  t.equal((await first.get('db')).Mountpoint, at);
  t.same((await first.get('db')).Status['nodes'], [target.firstNode]);
  t.equal(await second.path('db'), '');
  t.equal((await second.get('db')).Mountpoint, '');
  t.same((await second.get('db')).Status['nodes'], [target.firstNode]);
  t.equal(await first.mount('db', 'c2'), at, 'for another container');
  t.equal(await first.mount('db', 'c1'), at, 'for the same one once more');

  const elsewhere = await second.error('Mount', { Name: 'db', ID: 'c3' });
  t.match(elsewhere, new RegExp(`on node ${target.firstNode}`), 'the holder lives');
  t.equal(await second.unmount('db', 'c3'), '');

  t.equal(await first.unmount('db', 'c1'), '');
  t.equal(await first.unmount('db', 'c2'), '');
  t.equal(await first.unmount('db', 'c2'), '', 'once more');
  t.equal(await first.unmount('db', 'unknown'), '');
  t.equal(await first.path('db'), at, 'the first container has it still');
  t.equal(await first.unmount('db', 'c1'), '');
  t.equal(await first.path('db'), '');
  t.same((await first.get('db')).Status['nodes'], []);

  t.not(await second.mount('db', 'c3'), '', 'on the other host');
  t.equal(await second.unmount('db', 'c3'), '');
  t.equal(await first.remove('db'), '');
}

async function removals(t: Test, { first, second, target }: Hosts): Promise<void> {
  t.equal(await first.remove('db'), '', 'of a volume that there is not');
  t.equal(await first.create('db', { size: target.size, replicas: '2' }), '');
  await first.mount('db', 'container-1');
  t.match(await first.remove('db'), /1 container uses it on this host \(mount ids container-1\)/);
  t.match(await second.remove('db'), new RegExp(`in use on node ${target.firstNode} by docker`));
  t.equal(await first.unmount('db', 'container-1'), '');
  t.equal(await second.remove('db'), '', 'by the other host');
  t.equal(await first.remove('db'), '', 'once more');
  await t.rejects(first.get('db'), /does not exist/);
}

async function together(t: Test, { first, second, target }: Hosts): Promise<void> {
  const ids = ['c1', 'c2', 'c3', 'c4', 'c5', 'c6'];
  const options = { size: target.size, replicas: '2' };
  const created = await Promise.all(
    ids.map((_, at) => (at % 2 === 0 ? first : second).create('db', options)),
  );
  t.same(new Set(created), new Set(['']));
  const at = await Promise.all(ids.map((id) => first.mount('db', id)));
  t.equal(new Set(at).size, 1);
  t.same(new Set(await Promise.all(ids.map((id) => first.unmount('db', id)))), new Set(['']));
  t.equal(await first.path('db'), '');

  const shortLives = ids.map(async (id) => {
    t.not(await first.mount('db', id), '');
    t.equal(await first.create('db'), '');
    t.equal(await first.unmount('db', id), '');
  });
  await Promise.all(shortLives);
  t.equal(await first.path('db'), '', 'each has ended what it began');
  t.same(new Set(await Promise.all([first.remove('db'), second.remove('db')])), new Set(['']));
}
