import t from 'tap';
import { joinSnapshotName, parseSnapshotName, splitSnapshotName } from '../src/index.ts';

t.test('a snapshot is named with its volume', async (t) => {
  t.strictSame(parseSnapshotName('db@monday'), { volume: 'db', snapshot: 'monday' });
  t.equal(joinSnapshotName('db', 'monday'), 'db@monday');
  t.equal(splitSnapshotName('db'), null);
  // what follows the first @ is the snapshot's, and no name has an @
  t.strictSame(splitSnapshotName('db@a@b'), { volume: 'db', snapshot: 'a@b' });
});

t.test('what is no name of a snapshot is refused with the form that is wanted', async (t) => {
  const wrong = ['db', 'db@', '@monday', 'db@a@b', 'db@ monday', `db@${'x'.repeat(129)}`];
  for (const text of wrong) {
    t.throws(() => parseSnapshotName(text), { code: 'INVALID_ARGUMENT' }, text);
  }
  t.throws(() => parseSnapshotName('db'), { message: /write VOLUME@SNAPSHOT/ });
});
