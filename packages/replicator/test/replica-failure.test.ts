import { StorError } from '@stor/protocol';
import t, { type Test } from 'tap';
import { ReplicaFailure } from '../src/store/replica-failure.ts';

function setUp(): { failure: ReplicaFailure; recorded: string[] } {
  const recorded: string[] = [];
  const failure = new ReplicaFailure('r-1', 'd-1', (reason) => {
    recorded.push(reason);
  });
  return { failure, recorded };
}

const full = Object.assign(new Error('ENOSPC: write'), { code: 'ENOSPC' });
const broken = Object.assign(new Error('EIO: fdatasync'), { code: 'EIO' });

function isForGood(t: Test, failure: ReplicaFailure, recorded: string[]): void {
  t.equal(failure.error?.code, 'DISK_FAILED');
  t.equal(recorded.length, 1, 'recorded once');
  failure.endLackOfSpace();
  t.equal(failure.error?.code, 'DISK_FAILED', 'room does not bring back what is lost');
}

t.test('a write without room is not recorded and ends with the lack of room', async (t) => {
  const { failure, recorded } = setUp();
  t.equal(failure.write(full).code, 'NO_SPACE');
  t.equal(failure.write(full).code, 'NO_SPACE');
  failure.endLackOfSpace();
  t.equal(failure.error, null);
  t.same(recorded, []);
});

t.test('a sync that fails is for good, whatever it says', async (t) => {
  const { failure, recorded } = setUp();
  failure.sync(full);
  isForGood(t, failure, recorded);
});

t.test('a sync or write that fails after a write without room is for good', async (t) => {
  for (const step of ['sync', 'write'] as const) {
    const { failure, recorded } = setUp();
    failure.write(full);
    failure[step](broken);
    isForGood(t, failure, recorded);
  }
});

t.test('the failure of the disk stays when a write finds no room', async (t) => {
  const { failure, recorded } = setUp();
  failure.write(full);
  failure.write(new StorError('DISK_FAILED', 'the journal failed'));
  failure.write(full);
  t.equal(failure.error?.code, 'DISK_FAILED');
  t.same(recorded, [], 'whoever saw it has recorded it');
});
