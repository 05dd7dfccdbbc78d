/** Sets that shrink to one node: who has everything until their primary acknowledges under them alone. */
import t from 'tap';
import { decideAcquire, decideSet } from '../src/core/controllers/attachment-rules.ts';
import { dropLeaving } from '../src/core/controllers/replica-rules.ts';
import { wholeReplicas } from '../src/core/controllers/whole-replicas.ts';
import { grantOf } from '../src/core/volume/grant.ts';
import type { StoredVolume } from '../src/resources/records.ts';
import { clusterOf, volumeOn } from './volume-fixture.ts';

const all = ['r-a', 'r-b', 'r-c'];
const nowWallMs = 5;

function segmentOf(record: StoredVolume) {
  const [segment] = record.status.segments;
  if (!segment) throw new Error('no segment');
  return segment;
}

function whole(record: StoredVolume): string[] {
  return [...wholeReplicas(segmentOf(record), record.status.epoch)].sort();
}

/** Attached to `nodeId` by a process that knows of confirming. */
function granted(record: StoredVolume, nodeId: string): StoredVolume {
  const decision = decideAcquire(record, null, {
    nodeId,
    agentInstance: `i-${nodeId}`,
    mode: 'auto',
    onlyIfWanted: false,
    nowWallMs,
  });
  if (decision.type !== 'grant') throw new Error(decision.type);
  return decision.record;
}

function changed(record: StoredVolume, inSync: string[], confirms = false) {
  const { epoch } = record.status;
  const { setRevision } = segmentOf(record);
  const proposal = { nowWallMs, segment: 0, epoch, setRevision, inSync };
  const decision = decideSet(record, confirms ? { ...proposal, confirms } : proposal);
  if (decision.type !== 'change') throw new Error(JSON.stringify(decision));
  return decision;
}

function begin(): StoredVolume {
  return granted(volumeOn(['a', 'b', 'c']), 'a');
}

t.test('a set on one node is held for unconfirmed until its primary says more', async (t) => {
  const record = begin();
  t.same(whole(record), all);
  const several = changed(record, ['r-a', 'r-b']);
  t.equal(several.isUnconfirmed, false, 'it outlives a node');
  t.same(whole(several.record), ['r-a', 'r-b']);
  const one = changed(record, ['r-a']);
  t.equal(one.isUnconfirmed, true);
  t.same(segmentOf(one.record).inSync, ['r-a']);
  t.same(whole(one.record), all);
  const { epoch } = one.record.status;
  const { setRevision } = segmentOf(one.record);
  const repeated = { nowWallMs, segment: 0, epoch, setRevision: setRevision - 1, inSync: ['r-a'] };
  t.match(decideSet(one.record, repeated), { type: 'done', isUnconfirmed: true });
  const confirms = { ...repeated, setRevision, confirms: true };
  const told = decideSet(one.record, confirms);
  t.match(told, { type: 'change', setRevision, isUnconfirmed: false });
  if (told.type !== 'change') return;
  t.same(whole(told.record), ['r-a']);
  t.equal(segmentOf(told.record).setRevision, setRevision);
  t.match(decideSet(told.record, confirms), { type: 'done', setRevision }, 'its answer was lost');
  t.match(decideSet(told.record, { ...confirms, setRevision: setRevision - 1 }), {
    type: 'superseded',
  });
  const next = granted(one.record, 'b');
  t.match(decideSet(next, confirms), { type: 'superseded' }, 'another epoch was granted');
  t.same(whole(next), all);
});

t.test('what is not confirmed adds up, and ends with a set on several nodes', async (t) => {
  const one = changed(changed(begin(), ['r-a', 'r-b']).record, ['r-a']);
  t.same(whole(one.record), ['r-a', 'r-b']);
  const other = changed(granted(one.record, 'b'), ['r-b']);
  t.same(whole(other.record), ['r-a', 'r-b']);
  const two = changed(other.record, ['r-b', 'r-c']);
  t.same(whole(two.record), ['r-b', 'r-c']);
  t.equal(two.isUnconfirmed, false);
  const grown = changed(changed(one.record, ['r-a'], true).record, ['r-a', 'r-c']);
  t.same(whole(grown.record), ['r-a', 'r-c']);
});

t.test(
  'a volume of one replica that grows and moves is confirmed only when it must be',
  async (t) => {
    const record = granted(volumeOn(['a']), 'a');
    t.same(whole(record), ['r-a']);
    const same = { nowWallMs, segment: 0, epoch: record.status.epoch, setRevision: 1 };
    t.match(decideSet(record, { ...same, inSync: ['r-a'] }), { isUnconfirmed: false });
  },
);

t.test('the next primary is told who has everything', async (t) => {
  const state = clusterOf({ a: {}, b: {}, c: {} });
  const one = changed(begin(), ['r-a']).record;
  const unconfirmedIn = (record: StoredVolume) => {
    const { attachment } = record.status;
    if (!attachment) throw new Error('not attached');
    const grant = grantOf({ value: record, modRevision: 1 }, attachment, false, state);
    return grant.segments[0]?.unconfirmed;
  };
  t.same(unconfirmedIn(granted(one, 'b')), all);
  t.same(unconfirmedIn(granted(granted(one, 'b'), 'c')), all, 'one between that did not serve');
  t.equal(unconfirmedIn(granted(changed(one, ['r-a'], true).record, 'b')), undefined);
  // granted by a version that knows nothing of it, which acknowledged under the set alone
  const older = { ...one, status: { ...one.status, epoch: one.status.epoch + 1 } };
  t.same(whole(older), ['r-a']);
  const next = granted(older, 'b');
  t.equal(unconfirmedIn(next), undefined);
  t.equal(segmentOf(next).unconfirmed, undefined);
  t.same(whole(next), ['r-a']);
});

t.test('a replica that may have to stand in is not removed', async (t) => {
  const one = changed(begin(), ['r-a']).record;
  const leave = (record: StoredVolume) => {
    const segment = segmentOf(record);
    const replicas = segment.replicas.map((r) => (r.id === 'r-b' ? { ...r, leaving: true } : r));
    return dropLeaving({ ...segment, replicas });
  };
  t.equal(leave(one), null);
  const left = leave(changed(one, ['r-a'], true).record);
  t.same(
    left?.replicas.map(({ id }) => id),
    ['r-a', 'r-c'],
  );
});
