import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encodeBackup, grpcTransport, levelLogs, readMemberState } from '@stor/control-plane';
import type { KeyValue, RaftLogs, RpcTransport } from '@stor/control-plane';
import { silentLogger, systemClock, systemFiles, systemRandom, type Files } from '@stor/runtime';
import t from 'tap';
import type { Test } from 'tap';
import { checkAgentSettings } from '../src/config.ts';
import { formNode, type FormationWish } from '../src/formation/form-node.ts';
import { readIdentity } from '../src/formation/node-identity.ts';
import { storeIdentity } from '../src/core/store-choice.ts';
import { DataFolder } from '../src/data-folder.ts';
import { readStoreNote, writeStoreNote } from '../src/store-note.ts';

const clusterId = 'c-0123456789abcdef';
const item: KeyValue = {
  key: '/stor/settings',
  value: new TextEncoder().encode('{}'),
  createRevision: 1,
  modRevision: 1,
  leaseId: '',
};

/** A backup, and a node with an empty data folder that makes the store anew from it. */
function restoring(t: Test) {
  const folder = t.testdir();
  const dataDir = join(folder, 'data');
  const backup = join(folder, 'backup');
  const head = { clusterId, clusterName: 'test', revision: 12, takenAtMs: 1 };
  writeFileSync(backup, encodeBackup(head, [item]));
  const ports = { api: 17_110, http: 17_111, peers: 17_112, nbd: [17_113] };
  const settings = checkAgentSettings({ dataDir, nodeName: 'n1', listen: ports }, 'here');
  const run = (
    anew: FormationWish['anew'],
    {
      files = systemFiles,
      logs = levelLogs,
      join = null,
    }: { files?: Files; logs?: RaftLogs; join?: FormationWish['join'] } = {},
  ) =>
    formNode(
      settings,
      { bootstrap: false, join, anew: anew ?? null },
      {
        files,
        logs,
        rpc: join ? letIn : grpcTransport(),
        clock: systemClock,
        random: systemRandom,
        logger: silentLogger,
        hostName: 'host',
      },
    );
  return { dataDir, backup, run };
}

/** The new store, which lets everybody in and remembers the nonce of each node (see `decideJoin`). */
const nonces = new Map<string, string>();
const letIn = {
  channel: () => ({
    call: ({ request }: { request: { nodeId: string; nonce: string } }) => {
      const known = nonces.get(request.nodeId) ?? request.nonce;
      nonces.set(request.nodeId, known);
      if (known !== request.nonce) throw new Error('a second life');
      const answer = { clusterId, clusterName: 'test', storeId: 'new', members: [] };
      return Promise.resolve({ type: 'answered', response: answer });
    },
    close: () => {},
  }),
} as unknown as RpcTransport;

const killed = (): never => {
  throw new Error('killed');
};

t.test('a restoration that was killed before the store was whole begins anew', async (t) => {
  const { dataDir, backup, run } = restoring(t);
  await t.rejects(run({ backup }, { logs: { ...levelLogs, open: killed } }), /killed/);
  const { formation } = await run(null);
  t.same(formation?.voters, [], 'started without the backup, it makes no empty store');
  const config = await run({ backup });
  t.same(config.formation?.voters, [config.nodeId]);
  const { items } = await readMemberState(join(dataDir, 'raft'));
  t.same(
    items.map(({ key }) => key),
    [item.key],
  );
});

t.test('no store is made by a node that is gone for ever by what it is made from', async (t) => {
  const { dataDir, backup, run } = restoring(t);
  const { nodeId } = await run({ backup });
  const end = { id: nodeId, name: 'n1', atMs: 1, how: 'decommissioned' };
  const value = new TextEncoder().encode(JSON.stringify(end));
  const gone = { ...item, key: `/stor/forgotten/${nodeId}`, value };
  const head = { clusterId, clusterName: 'test', revision: 13, takenAtMs: 1 };
  writeFileSync(backup, encodeBackup(head, [item, gone]));
  await t.rejects(run({ backup }), {
    code: 'FAILED_PRECONDITION',
    message: /^node n1 \(n-.*\) has left the cluster for ever .*: give another node, or/,
  });
  const { items } = await readMemberState(join(dataDir, 'raft'));
  t.equal(items.length, 1, 'what it has stays as it is');
  const other = restoring(t);
  writeFileSync(other.backup, encodeBackup(head, [item, gone]));
  t.not(
    (await other.run({ backup: other.backup })).nodeId,
    nodeId,
    'in an empty folder it is another',
  );
});

t.test('one that was killed before the store had its place goes on with it', async (t) => {
  const { dataDir, backup, run } = restoring(t);
  const files = new Proxy(systemFiles, {
    get(target, name, receiver) {
      if (name !== 'rename') return Reflect.get(target, name, receiver) as unknown;
      return (from: string, to: string) => {
        if (to === join(dataDir, 'raft')) killed();
        target.rename(from, to);
      };
    },
  });
  await t.rejects(run({ backup }, { files }), /killed/);
  await run({ backup });
  const made = JSON.parse(readFileSync(join(dataDir, 'raft', 'identity.json'), 'utf8')) as object;
  const { storeId, origin } = readIdentity(systemFiles, dataDir) ?? {};
  t.match(made, { storeId }, 'under the id that the store has');
  t.equal(origin, 'first');
  t.equal((await readMemberState(join(dataDir, 'raft'))).items.length, 1);
});

t.test(
  'a cluster whose etcd is lost goes on in the store that is made from a backup',
  async (t) => {
    const { dataDir, backup, run } = restoring(t);
    await run({ backup });
    const note = { store: 'etcd://h:1/p', movedFrom: ['embedded'] };
    writeStoreNote(systemFiles, dataDir, note);
    await t.rejects(run('survivor'), {
      code: 'FAILED_PRECONDITION',
      message: /has moved to etcd:\/\/h:1\/p, and what this node has .* is old: give a backup/,
    });
    t.same(readStoreNote(systemFiles, dataDir), note);
    await run({ backup });
    const anew = { store: 'embedded', movedFrom: [storeIdentity(note.store)] };
    t.same(readStoreNote(systemFiles, dataDir), anew, 'it would wait for etcd for ever');
  },
);

const joining = { addresses: ['h:1'], token: 'token', replace: false, discardStore: true };

t.test('a node that had moved to etcd joins the embedded store that was made anew', async (t) => {
  const { dataDir, backup, run } = restoring(t);
  await run({ backup });
  writeStoreNote(systemFiles, dataDir, { store: 'etcd://h:1/p', movedFrom: ['embedded'] });
  await run(null, { join: joining });
  t.match(readStoreNote(systemFiles, dataDir), { store: 'embedded' });
  t.match(readIdentity(systemFiles, dataDir), { origin: 'joined', storeId: 'new' });
});

/** The system's files, of a process that is killed before its change of this number. */
function killedBefore(change: number): { files: Files; wasKilled: () => boolean } {
  let left = change;
  const changes = ['rename', 'remove', 'syncDirectory', 'open'];
  const files = new Proxy(systemFiles, {
    get(target, name, receiver) {
      const value: unknown = Reflect.get(target, name, receiver);
      if (typeof value !== 'function' || !changes.includes(String(name))) return value;
      return (...given: unknown[]): unknown => {
        left -= 1;
        return left < 0 ? killed() : (Reflect.apply(value, target, given) as unknown);
      };
    },
  });
  return { files, wasKilled: () => left < 0 };
}

t.test('a node that is killed while it discards its old store begins no empty one', async (t) => {
  for (let change = 0; ; change++) {
    const { dataDir, backup, run } = restoring(t);
    const { clusterId, nodeId } = await run({ backup });
    writeFileSync(join(dataDir, 'raft-began'), '');
    const { files, wasKilled } = killedBefore(change);
    await run(null, { join: joining, files }).catch(() => {});
    if (!wasKilled()) {
      t.ok(change > 5, `killed at ${change} moments`);
      break;
    }
    const { formation } = await run(null);
    const isGone = !existsSync(join(dataDir, 'raft'));
    const open = (): void => {
      DataFolder.open(dataDir, { clusterId, nodeId }).checkRaft();
    };
    // started without the flags: with its old part, as one without a vote, or not at all
    if (isGone && formation?.voters.length !== 0) t.throws(open, { code: 'FOREIGN_DATA' });
    await run(null, { join: joining });
    t.match(readIdentity(systemFiles, dataDir), { origin: 'joined', storeId: 'new' });
    t.notOk(existsSync(join(dataDir, 'raft-began')), `again after ${change}`);
  }
});
