import t from 'tap';

import { VolumeHistory, payloadOf } from '../src/checkers/volume-history.ts';

/** A volume's history, and reads of one sector that hold what is given. */
function history(): {
  history: VolumeHistory;
  read: (value: number, startAt?: number, sector?: number) => void;
} {
  const it = new VolumeHistory();
  return {
    history: it,
    read: (value, startAt = it.now(), sector = 0) => {
      it.read(sector, sector + 1, payloadOf(sector, sector + 1, value), startAt);
    },
  };
}

t.test('a write that was acknowledged is read from then on', (t) => {
  const { history: it, read } = history();
  read(0);
  const one = it.begin(0, 1, false, false);
  it.acknowledged(one);
  read(one.value);
  it.finish();
  t.strictSame(it.problems, []);
  read(0);
  t.match(it.problems, [/older than/]);
  t.end();
});

t.test('a write without an answer may have happened or not, once', (t) => {
  const { history: it, read } = history();
  const one = it.begin(0, 1, false, false);
  read(0);
  read(one.value);
  t.strictSame(it.problems, []);
  read(0);
  t.match(it.problems, [/older than/], 'but what was read does not go away again');
  t.end();
});

t.test('reads that overlap a write may see either', (t) => {
  const { history: it, read } = history();
  const startAt = it.now();
  const one = it.begin(0, 1, false, false);
  it.acknowledged(one);
  read(0, startAt);
  read(one.value, startAt);
  it.finish();
  t.strictSame(it.problems, []);
  t.end();
});

t.test('a value that comes back is found at the end', (t) => {
  const { history: it, read } = history();
  const one = it.begin(0, 1, false, false);
  const two = it.begin(0, 1, false, false);
  read(one.value);
  read(two.value);
  read(one.value);
  t.strictSame(it.problems, [], 'each read alone could be');
  it.finish();
  t.ok(it.problems.length > 0);
  t.end();
});

t.test('what was not flushed may be lost when nobody kept it; what was flushed may not', (t) => {
  const { history: it, read } = history();
  const one = it.begin(0, 1, false, false);
  it.acknowledged(one);
  it.flushed(it.now());
  const two = it.begin(0, 1, false, false);
  it.acknowledged(two);
  it.memoryLost();
  read(one.value);
  t.strictSame(it.problems, []);
  read(two.value);
  t.match(it.problems, [/was read as/], 'one state, not two');
  t.end();
});

t.test('a flushed write that is gone after a power cut is a fault', (t) => {
  const { history: it, read } = history();
  const one = it.begin(0, 1, false, false);
  it.acknowledged(one);
  it.flushed(it.now());
  it.memoryLost();
  read(0);
  t.match(it.problems, [/none of what it may hold/]);
  t.end();
});

t.test('so is one that was acknowledged with FUA', (t) => {
  const { history: it, read } = history();
  const one = it.begin(0, 1, false, true);
  it.acknowledged(one);
  it.memoryLost();
  read(0);
  t.match(it.problems, [/none of what it may hold/]);
  t.end();
});

t.test('a read that began before memory was lost says nothing of what is left', (t) => {
  const { history: it, read } = history();
  const one = it.begin(0, 1, false, false);
  it.acknowledged(one);
  const startAt = it.now();
  it.memoryLost();
  read(one.value, startAt);
  read(0);
  t.strictSame(it.problems, []);
  read(one.value);
  t.match(it.problems, [/was read as 0/], 'but one that began later does');
  t.end();
});

t.test('two writes of a whole block in one block are a torn block', (t) => {
  const { history: it } = history();
  const one = it.begin(0, 8, false, false);
  const two = it.begin(0, 8, false, false);
  const torn = Buffer.concat([payloadOf(0, 4, one.value), payloadOf(4, 8, two.value)]);
  it.read(0, 8, torn, 1);
  t.match(it.problems, [/torn/]);
  t.end();
});

t.test('bytes of another place, or of nobody, are found', (t) => {
  const { history: it } = history();
  it.begin(0, 2, false, false);
  it.read(0, 1, payloadOf(1, 2, 1), it.now());
  it.read(1, 2, payloadOf(1, 2, 77), it.now());
  t.match(it.problems, [/of another place/, /none of what it may hold/]);
  t.end();
});
