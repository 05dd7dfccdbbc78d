import t from 'tap';
import type { AgentDisk } from '../src/agent-port.ts';
import { diskNote } from '../src/core/disk/disk-note.ts';

const disk: AgentDisk = {
  diskId: 'd-1',
  path: '/d',
  tag: '',
  state: 'online',
  message: '',
  capacityBytes: 110,
  reservedBytes: 10,
  usedBytes: 0,
  freeBytes: 100,
};

t.test('what changes about a disk is told once, when it gets worse', async (t) => {
  const reason = (before: Partial<AgentDisk> | null, now: Partial<AgentDisk>): string | undefined =>
    diskNote(before && { ...disk, ...before }, { ...disk, ...now }, 'n1')?.reason;
  t.equal(reason(null, {}), undefined);
  t.equal(reason({}, { freeBytes: 21 }), undefined, 'just below 80 %');
  t.equal(reason({}, { freeBytes: 20 }), 'disk-nearly-full');
  t.equal(reason(null, { freeBytes: 20 }), 'disk-nearly-full', 'after a start too');
  t.equal(reason({ freeBytes: 20 }, { freeBytes: 19 }), undefined, 'known already');
  t.equal(reason({ freeBytes: 20 }, { freeBytes: 5 }), 'disk-full');
  t.equal(reason({ freeBytes: 5 }, { freeBytes: 20 }), undefined, 'better');
  t.equal(reason({}, { trouble: 'EIO' }), 'disk-failed');
  t.equal(reason({ trouble: 'EIO' }, { trouble: 'EIO, twice' }), undefined);
  t.equal(reason({ trouble: 'EIO' }, { state: 'failed', message: 'dead' }), 'disk-failed');
  t.equal(reason({ state: 'failed' }, { state: 'failed', freeBytes: 0 }), undefined);
  t.match(diskNote(disk, { ...disk, trouble: 'EIO' }, 'n1'), {
    type: 'warning',
    object: { kind: 'disk', id: 'd-1' },
    message: 'disk /d of node n1 is failing, what it holds moves elsewhere: EIO',
  });
});
