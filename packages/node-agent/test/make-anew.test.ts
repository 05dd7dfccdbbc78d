import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encodeBackup, grpcTransport, levelLogs, readMemberState } from '@stor/control-plane';
import type { KeyValue, RaftLogs } from '@stor/control-plane';
import { silentLogger, systemClock, systemFiles, systemRandom, type Files } from '@stor/runtime';
import t from 'tap';
import type { Test } from 'tap';
import { checkAgentSettings } from '../src/config.ts';
import { formNode, type FormationWish } from '../src/formation/form-node.ts';
import { readIdentity } from '../src/formation/node-identity.ts';

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
    { files = systemFiles, logs = levelLogs }: { files?: Files; logs?: RaftLogs } = {},
  ) =>
    formNode(
      settings,
      { bootstrap: false, join: null, anew: anew ?? null },
      {
        files,
        logs,
        rpc: grpcTransport(),
        clock: systemClock,
        random: systemRandom,
        logger: silentLogger,
        hostName: 'host',
      },
    );
  return { dataDir, backup, run };
}

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
