import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { grpcTransport, levelLogs } from '@stor/control-plane';
import { silentLogger, systemClock, systemFiles, systemRandom } from '@stor/runtime';
import t from 'tap';
import type { Test } from 'tap';
import { DataFolder } from '../src/data-folder.ts';
import { enterStore, NextMember } from '../src/next-member.ts';

const clusterId = 'c-0123456789abcdef';
const id = 'n-0123456789abcdef';
const self = { id, address: '127.0.0.1:1' };
const move = { id: 'aabb', members: { voters: [self], learners: [], revision: 700 } };

async function begin(t: Test) {
  const path = join(t.testdir(), 'data');
  const folder = DataFolder.open(path, { clusterId, nodeId: id });
  folder.noteStore({ store: 'etcd://h:1/p' });
  const server = await grpcTransport().createServer();
  const parts = { clock: systemClock, random: systemRandom, logger: silentLogger };
  const files = { files: systemFiles, logs: levelLogs };
  const next = (): NextMember => {
    const store = { clusterId, id, server, ...files, ...parts };
    return new NextMember({ folder, address: self.address, store });
  };
  return { path, folder, next };
}

t.test('a member is made once, and takes the place of the embedded store', async (t) => {
  const { path, folder, next } = await begin(t);
  const first = next();
  const store = await first.open(move);
  t.equal(await first.open(move), store, 'one for all');
  await store.transact({
    compare: [],
    operations: [{ type: 'put', key: '/k', value: new Uint8Array(1) }],
  });
  t.ok(store.status().revision > 700, 'revisions go on above those of the other store');
  await first.close();
  t.equal(first.begun(), move.id);
  const again = next();
  t.ok(await (await again.open(move)).get('/k'), 'it goes on with what it has');
  await again.close();

  folder.noteStore({ store: 'embedded', movedFrom: ['etcd p/'], entering: move.id });
  systemFiles.makeDirectory(join(path, 'raft'));
  let renames = 0;
  const dying = new Proxy(systemFiles, {
    get(target, name, receiver) {
      if (name !== 'rename') return Reflect.get(target, name, receiver) as unknown;
      return (from: string, to: string): void => {
        if (++renames === 2) throw new Error('killed');
        target.rename(from, to);
      };
    },
  });
  const identity = { clusterId, id };
  t.throws(() => {
    enterStore(folder, dying, identity, 5);
  }, /killed/);
  enterStore(folder, systemFiles, identity, 6);
  enterStore(folder, systemFiles, identity, 7);
  t.same(folder.storeNote(), { store: 'embedded', movedFrom: ['etcd p/'] });
  t.ok(folder.hasBegunRaft);
  folder.checkRaft();
  t.same(
    readdirSync(path).filter((name) => name.startsWith('raft')),
    ['raft', 'raft-began', 'raft.old-5'],
  );
});

t.test('a member that is gone, was given up, or is none', async (t) => {
  const { path, folder, next } = await begin(t);
  const member = next();
  await t.rejects(
    member.open({
      id: 'other',
      members: { voters: [{ id: 'n-x', address: 'h:1' }], learners: [], revision: 1 },
    }),
    { code: 'FAILED_PRECONDITION', message: /does not know this node/ },
  );
  await member.open(move);
  await member.drop(move.id);
  t.equal(member.begun(), null);
  await t.rejects(member.open(move), {
    code: 'FAILED_PRECONDITION',
    message: /was given up, and is there again/,
  });
  await member.open({ ...move, id: 'ccdd' });
  await member.close();
  rmSync(join(path, 'raft.move-ccdd'), { recursive: true });
  await t.rejects(next().open({ ...move, id: 'ccdd' }), {
    code: 'FOREIGN_DATA',
    message: /is gone: put it back/,
  });
  folder.noteStore({ store: 'embedded', entering: 'ccdd' });
  t.throws(
    () => {
      enterStore(folder, systemFiles, { clusterId, id }, 1);
    },
    { code: 'FOREIGN_DATA', message: /is gone: put it back/ },
  );
});
