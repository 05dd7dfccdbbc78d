import t from 'tap';

import { SnapshotChecker } from '../src/checkers/snapshot-checker.ts';
import { VolumeHistory } from '../src/checkers/volume-history.ts';
import type { KnownSnapshot, ReplicaView, SimCluster } from '../src/cluster/sim-cluster.ts';

const volume = { name: 'v0', sizeBytes: 4096, replicas: 1 };

/** One replica that has all of them, with zeros in each. */
function checkerOf(ids: string[]): { it: SnapshotChecker; violations: string[] } {
  const violations: string[] = [];
  const replica: ReplicaView = {
    replicaId: 'r-1',
    node: 0,
    failed: null,
    marks: [],
    highestEpoch: 1,
    setRevision: 1,
    keptMemory: true,
    content: () => Promise.resolve(null),
    snapshots: ids.map((id) => ({ id, state: 'ready' })),
    snapshot: () => Promise.resolve({ bytes: Buffer.alloc(4096), valid: new Uint8Array([1]) }),
  };
  const cluster = { volumes: [volume], replicasOf: () => [replica] } as unknown as SimCluster;
  const it = new SnapshotChecker({
    cluster,
    histories: new Map([['v0', new VolumeHistory()]]),
    violation: (_checker, detail) => violations.push(detail),
    count: () => {},
  });
  return { it, violations };
}

function ready(id: string, name: string): KnownSnapshot {
  return { id, volume: 'v0', name, state: 'ready', sizeBytes: 4096, groupId: '' };
}

t.test('what may be deleted at any moment is nothing to roll back to', async (t) => {
  const { it, violations } = checkerOf(['s-1', 's-2']);
  for (const [id, name] of [
    ['s-1', 'one'],
    ['s-2', 'two'],
  ] as const) {
    it.ordered('v0', name);
    it.changed(ready(id, name));
  }
  const names = (of: { name: string }[]): string[] => of.map(({ name }) => name);
  while (it.known('v0').length < 2) await new Promise(setImmediate);
  t.strictSame(names(it.kept('v0')), ['one', 'two']);

  it.mayGo('v0', 'one');
  t.strictSame(names(it.known('v0')), ['one', 'two'], 'the order is not carried out yet');
  t.strictSame(names(it.kept('v0')), ['two'], 'a rollback to it could wait for ever');
  t.strictSame(violations, []);
});
