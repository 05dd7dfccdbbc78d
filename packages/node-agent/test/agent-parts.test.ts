import { appendFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { MessageChannel } from 'node:worker_threads';
import t from 'tap';
import { StorError } from '@stor/protocol';
import { grpcTransport, levelLogs } from '@stor/control-plane';
import { checkAgentConfig } from '../src/config.ts';
import { silentLogger, systemClock, systemFiles, systemRandom } from '@stor/runtime';
import { chooseStore } from '../src/core/store-choice.ts';
import { DataFolder } from '../src/data-folder.ts';
import { NextMember } from '../src/next-member.ts';
import { NodeStore } from '../src/node-store.ts';
import { FailureLog } from '../src/lane/failure-log.ts';
import { LaneRpc } from '../src/lane/rpc.ts';

const good = {
  clusterId: 'c-0123456789abcdef',
  nodeId: 'n-0123456789abcdef',
  nodeName: 'n1',
  dataDir: '/data',
  listen: { host: '127.0.0.1', api: 1, http: 2, peers: 3, nbd: [4] },
  members: [{ id: 'n-0123456789abcdef', name: 'n1', api: '127.0.0.1:1' }],
};

t.test('config: a good one passes, a bad one is refused with the field named', async (t) => {
  t.equal(checkAgentConfig(good, 'c.yaml').nodeName, 'n1');
  t.throws(() => checkAgentConfig({ ...good, nodeId: 'x' }, 'c.yaml'), {
    code: 'INVALID_ARGUMENT',
    message: /nodeId/,
  });
  t.throws(() => checkAgentConfig({ ...good, colour: 'red' }, 'c.yaml'), {
    code: 'INVALID_ARGUMENT',
    message: /colour/,
  });
  t.throws(
    () => checkAgentConfig({ ...good, members: [{ id: 'n-1', name: 'n', api: 'a:1' }] }, 'c.yaml'),
    {
      message: /members does not contain/,
    },
  );
});

t.test('config: where the CSI driver listens', async (t) => {
  const csiOf = (csi: object): unknown => checkAgentConfig({ ...good, csi }, 'c.yaml').csi;
  t.equal(checkAgentConfig(good, 'c.yaml').csi, undefined);
  t.same(csiOf({ endpoint: 'unix:///run/csi.sock' }), { endpoint: '/run/csi.sock' });
  t.same(csiOf({ nodeEndpoint: '/a', controllerEndpoint: '/b', maxVolumesPerNode: 5 }), {
    nodeEndpoint: '/a',
    controllerEndpoint: '/b',
    maxVolumesPerNode: 5,
  });
  const nodeLoss = { server: 'https://10.96.0.1:443', tokenFile: '/token' };
  t.same(csiOf({ endpoint: '/a', nodeLoss }), { endpoint: '/a', nodeLoss });
  const server = 'http://10.96.0.1:8080';
  const wrong = [
    { endpoint: '/a', nodeLoss: { ...nodeLoss, server } },
    { endpoint: '/a', nodeLoss: { ...nodeLoss, server: 'kubernetes' } },
    { endpoint: '/a', nodeLoss: { ...nodeLoss, waitMs: 1 } },
    {},
    { endpoint: 'run/csi.sock' },
    { endpoint: 'tcp://127.0.0.1:1' },
    { endpoint: '/a', nodeEndpoint: '/b' },
    { controllerEndpoint: '/a', nodeEndpoint: '/a' },
    { endpoint: '/a', maxVolumesPerNode: -1 },
    { endpoint: '/a', colour: 'red' },
  ];
  for (const csi of wrong) {
    t.throws(() => csiOf(csi), { code: 'INVALID_ARGUMENT', message: /csi/ }, JSON.stringify(csi));
  }
});

t.test('config: without encryption the agent listens on loopback only, unless told', async (t) => {
  const open = { ...good, listen: { ...good.listen, host: '0.0.0.0' } };
  t.throws(() => checkAgentConfig(open, 'c.yaml'), {
    code: 'INVALID_ARGUMENT',
    message: /insecureListen/,
  });
  t.equal(checkAgentConfig({ ...open, insecureListen: true }, 'c.yaml').listen.host, '0.0.0.0');
});

t.test('data folder: keeps its identity and refuses what is not its own', async (t) => {
  const base = t.testdir({ other: { 'notes.txt': 'mine' } });
  const path = join(base, 'data');
  const expect = { clusterId: good.clusterId, nodeId: good.nodeId };
  const folder = DataFolder.open(path, expect);
  folder.addDisk({ diskId: 'd-1', path: '/d1', tag: '' });
  t.same(DataFolder.open(path, expect).disks(), [{ diskId: 'd-1', path: '/d1', tag: '' }]);
  t.throws(() => DataFolder.open(path, { ...expect, clusterId: 'c-ffffffffffffffff' }), {
    code: 'FOREIGN_DATA',
    message: /belongs to cluster c-0123456789abcdef/,
  });
  t.throws(() => DataFolder.open(path, { ...expect, nodeId: 'n-ffffffffffffffff' }), {
    code: 'FOREIGN_DATA',
  });
  t.throws(() => DataFolder.open(join(base, 'other'), expect), {
    code: 'FOREIGN_DATA',
    message: /empty folder/,
  });
  const identity = join(path, 'identity.json');
  const newer = JSON.stringify({ ...expect, formatVersion: 99 });
  writeFileSync(identity, newer);
  t.throws(() => DataFolder.open(path, expect), {
    code: 'FOREIGN_DATA',
    message: /format version 99/,
  });
  t.equal(readFileSync(identity, 'utf8'), newer, 'a refused folder is left as it was');
});

t.test('data folder: a node whose Raft log is gone does not vote again', async (t) => {
  const path = join(t.testdir({}), 'data');
  const folder = DataFolder.open(path, { clusterId: good.clusterId, nodeId: good.nodeId });
  folder.checkRaft();
  mkdirSync(join(folder.raftPath, 'log'), { recursive: true });
  folder.checkRaft();
  folder.noteRaft();
  folder.noteRaft();
  folder.checkRaft();
  rmSync(folder.raftPath, { recursive: true });
  t.throws(
    () => {
      folder.checkRaft();
    },
    { code: 'FOREIGN_DATA', message: /put it back/ },
  );
  mkdirSync(join(folder.raftPath, 'log'), { recursive: true });
  folder.checkRaft();
});

t.test('the store of a node: what the config may name', async (t) => {
  const note = { store: 'etcd://h1:1,h2:1/prod', movedFrom: ['embedded'] };
  t.same(chooseStore(null, 'etcd://h:1/p'), { type: 'use', address: 'etcd://h:1/p', isOld: false });
  t.same(
    chooseStore(note, 'etcd://h3:1/prod'),
    { type: 'use', address: 'etcd://h3:1/prod', isOld: false },
    'other servers of the same',
  );
  t.same(
    chooseStore(note, 'embedded'),
    { type: 'use', address: note.store, isOld: true },
    'a config that was not corrected after a move',
  );
  t.match(chooseStore(note, 'etcd://h1:1/test'), { type: 'verify', known: note.store });
  t.match(chooseStore({ store: 'embedded' }, 'etcd://h1:1/test'), { type: 'verify' });
});

t.test('data folder: it stays with the store that knows its cluster', async (t) => {
  const path = join(t.testdir({}), 'data');
  const folder = DataFolder.open(path, { clusterId: good.clusterId, nodeId: good.nodeId });
  const parts = { clock: systemClock, random: systemRandom, logger: silentLogger };
  const server = await grpcTransport().createServer();
  const choose = (config: object): Promise<{ address: string }> =>
    new NodeStore({
      config: checkAgentConfig({ ...good, ...config }, 'c.yaml'),
      folder,
      next: new NextMember({
        folder,
        address: '127.0.0.1:1',
        store: {
          ...parts,
          server,
          files: systemFiles,
          logs: levelLogs,
          clusterId: good.clusterId,
          id: good.nodeId,
        },
      }),
      ...parts,
    }).choose();
  t.equal(folder.storeNote(), null);
  folder.noteRaft();
  t.same(folder.storeNote(), { store: 'embedded' }, 'of an agent that knew only one');
  t.match(await choose({}), { address: 'embedded' });
  folder.noteStore({ store: 'etcd://h:1/p', movedFrom: ['embedded'] });
  t.match(await choose({}), { address: 'etcd://h:1/p' });
  t.match(await choose({ store: 'etcd://g:1/p' }), { address: 'etcd://g:1/p' });
  t.same(folder.storeNote(), { store: 'etcd://g:1/p', movedFrom: ['embedded'] });
  folder.noteStore({ store: 'etcd://h:1/p' });
  await t.rejects(choose({}), {
    code: 'FAILED_PRECONDITION',
    message: /is in the store etcd:\/\/h:1\/p, the config says embedded/,
  });
});

t.test('config: the store', async (t) => {
  const { members: _members, ...rest } = good;
  const inEtcd = { ...rest, store: 'etcd://h:1/p', etcdTls: { ca: '/ca' } };
  t.equal(checkAgentConfig(inEtcd, 'c.yaml').store, 'etcd://h:1/p', 'without members');
  t.throws(() => checkAgentConfig({ ...good, store: 'etcd://h' }, 'c.yaml'), {
    code: 'INVALID_ARGUMENT',
    message: /config file c.yaml: store: .*not HOST:PORT/,
  });
  t.throws(() => checkAgentConfig({ ...inEtcd, etcdTls: { ca: '/a', key: '/k' } }, 'c.yaml'), {
    message: /cert and key go together/,
  });
  t.throws(() => checkAgentConfig({ ...rest, store: 'embedded' }, 'c.yaml'), {
    message: /members does not contain/,
  });
});

t.test(
  'failure log: failures outlive the process, and a record cut short hides no other',
  async (t) => {
    const path = join(t.testdir({}), 'failures.jsonl');
    const log = new FailureLog(path);
    log.record({ diskId: 'd-1', replicaId: 'r-1', reason: 'EIO' });
    appendFileSync(path, '{"diskId":"d-1","rep');
    log.record({ diskId: 'd-1', replicaId: null, reason: 'fdatasync: EIO' });
    log.record({ diskId: 'd-2', replicaId: null, reason: 'other' });
    t.same(
      new FailureLog(path).failuresOf('d-1').map((failure) => failure.reason),
      ['EIO', 'fdatasync: EIO'],
    );
  },
);

t.test('failure log: a full file system does not keep a failure from it (I7)', async (t) => {
  const dir = join(t.testdir({ small: {} }), 'small');
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=128k', 'none', dir]);
  if (mounted.status !== 0) {
    t.comment('a small file system cannot be mounted here');
    return;
  }
  try {
    const path = join(dir, 'failures.jsonl');
    const log = new FailureLog(path);
    log.record({ diskId: 'd-1', replicaId: 'r-1', reason: 'EIO' });
    t.throws(
      () => {
        for (;;) appendFileSync(join(dir, 'other'), 'x'.repeat(512));
      },
      { code: 'ENOSPC' },
    );
    const reason = `fdatasync: ENOSPC ${'-'.repeat(8_192)}`;
    log.record({ diskId: 'd-1', replicaId: null, reason });
    const found = new FailureLog(path).failuresOf('d-1').map((failure) => failure.reason);
    t.same(found, ['EIO', reason]);
  } finally {
    // before the folder is removed
    spawnSync('umount', [dir]);
  }
});

t.test(
  'lane calls: results, coded errors, and failure of what waits when the lane ends',
  async (t) => {
    const { port1, port2 } = new MessageChannel();
    interface Far {
      add(a: number, b: number): Promise<number>;
      fail(): Promise<void>;
      hang(): Promise<void>;
    }
    const near = new LaneRpc<Far>(port1, {});
    const far: Far = {
      add: async (a, b) => a + b,
      fail: () =>
        Promise.reject(new StorError('NO_SPACE', 'disk is full', { details: { disk: 'd-1' } })),
      hang: () => new Promise(() => {}),
    };
    new LaneRpc<object>(port2, far);
    t.equal(await near.remote.add(2, 3), 5);
    await t.rejects(near.remote.fail(), {
      code: 'NO_SPACE',
      message: 'disk is full',
      details: { disk: 'd-1' },
    });
    await t.rejects((near.remote as unknown as { nope(): Promise<void> }).nope(), {
      code: 'INTERNAL',
    });
    const hanging = near.remote.hang();
    near.close(new StorError('INTERNAL', 'lane ended'));
    await t.rejects(hanging, { message: 'lane ended' });
    await t.rejects(near.remote.add(1, 1), { message: 'lane ended' });
    port1.close();
  },
);
