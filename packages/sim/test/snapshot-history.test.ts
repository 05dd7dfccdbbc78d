import t from 'tap';

import { VolumeHistory, imageOf, payloadOf } from '../src/checkers/volume-history.ts';

/** The value of each of the first sectors. */
function image(...values: number[]): Uint32Array {
  return Uint32Array.from(values);
}

t.test('an image is of a moment at which each sector held its value', (t) => {
  const it = new VolumeHistory();
  const from = it.now();
  const one = it.begin(0, 1, false, false);
  it.acknowledged(one);
  const between = it.now();
  const two = it.begin(1, 2, false, false);
  it.acknowledged(two);
  const to = it.now();
  const within = { from, to };
  t.type(it.heldIn(image(0, 0), within), Array);
  t.type(it.heldIn(image(one.value, 0), within), Array);
  t.type(it.heldIn(image(one.value, two.value), within), Array);
  t.match(
    it.heldIn(image(0, two.value), within),
    /sector 1/,
    'the later write without the earlier',
  );
  t.match(
    it.heldIn(image(0, 0), { from: between, to }),
    /sector 0/,
    'acknowledged before the order',
  );
  t.match(
    it.heldIn(image(one.value, two.value), { from, to: between }),
    /sector 1/,
    'begun after the snapshot was ready',
  );
  t.match(it.heldIn(image(one.value, 0, 9), within), /never written/);
  t.end();
});

t.test('a write without an answer may be in it or not', (t) => {
  const it = new VolumeHistory();
  const one = it.begin(0, 1, false, false);
  const within = { from: it.now(), to: it.now() };
  t.type(it.heldIn(image(0), within), Array);
  t.type(it.heldIn(image(one.value), within), Array);
  it.seen(image(one.value), within);
  it.read(0, 1, payloadOf(0, 1, 0), it.now());
  t.match(it.problems, [/older than/], 'but if it is, it is in the volume too');
  t.end();
});

t.test('an image from before all memory was lost is judged by what was known then', (t) => {
  const it = new VolumeHistory();
  const one = it.begin(0, 1, false, false);
  it.acknowledged(one);
  const from = it.now();
  const to = it.now();
  it.memoryLost();
  it.read(0, 1, payloadOf(0, 1, 0), it.now());
  t.type(it.heldIn(image(one.value), { from, to }), Array);
  t.match(it.heldIn(image(0), { from, to }), /sector 0/);
  t.match(it.heldIn(image(one.value), { from: it.now(), to: it.now() }), /sector 0/);
  t.end();
});

t.test('zeros are found between two writes', (t) => {
  const it = new VolumeHistory();
  const one = it.begin(0, 1, false, false);
  it.acknowledged(one);
  const before = it.now();
  it.acknowledged(it.begin(0, 1, true, false));
  const after = it.now();
  const two = it.begin(0, 1, false, false);
  it.acknowledged(two);
  const end = it.now();
  t.match(it.heldIn(image(0), { from: 0, to: before }), [{ from: 0 }], 'as it was made');
  t.strictSame(it.heldIn(image(0), { from: after, to: end }), [{ from: after, to: end - 1 }]);
  t.match(it.heldIn(image(0), { from: end, to: end + 1 }), /sector 0/);
  t.end();
});

t.test('bytes are told by sector, and damage is seen', (t) => {
  const bytes = Buffer.concat([payloadOf(0, 8, 0), payloadOf(8, 12, 3), payloadOf(12, 16, 0)]);
  t.strictSame(imageOf(bytes), Uint32Array.from([...Array(8).fill(0), 3, 3, 3, 3, 0, 0, 0, 0]));
  bytes[9 * 512 + 100] = 1;
  t.match(imageOf(bytes), /sector 9 is torn/);
  t.end();
});

t.test('a rollback is one moment for all sectors, and what it brings back may be read', (t) => {
  const it = new VolumeHistory();
  const writes = [it.begin(0, 1, false, false), it.begin(1, 2, false, false)];
  for (const write of writes) it.acknowledged(write);
  const [one = 0, two = 0] = writes.map(({ value }) => value);
  const later = it.begin(0, 2, false, false);
  it.acknowledged(later);
  const fromAt = it.now();
  const within = { from: it.now(), to: it.now() };
  it.became(image(one, two), fromAt);
  t.type(it.heldIn(image(later.value, later.value), within), Array, 'not yet');
  t.type(it.heldIn(image(one, two), within), Array, 'already');
  t.match(it.heldIn(image(one, later.value), within), /did not hold/, 'never half');
  it.read(0, 1, payloadOf(0, 1, one), it.now());
  it.acknowledged(it.begin(1, 2, false, false));
  it.finish();
  t.strictSame(it.problems, []);
  it.read(0, 1, payloadOf(0, 1, later.value), it.now());
  t.match(it.problems, [/none of what it may hold/]);
  t.end();
});
