import fc from 'fast-check';
import t from 'tap';
import { errorCodes, exitCodeOf } from '@stor/protocol';
import { BoundedTasks } from '../src/bounded-tasks.ts';
import { expandCommandWords, type CommandWord } from '../src/core/command-words.ts';
import { formatAge, parseDurationMs } from '../src/core/duration.ts';
import { parseLabelChanges, parseNewLabels } from '../src/core/label-arguments.ts';
import { renderSheet, renderTable } from '../src/core/table.ts';
import { zeroGrainBytes, zeroRuns } from '../src/core/zero-runs.ts';
import { exitCodes } from '../src/exit-codes.ts';

const word = (
  name: string,
  children: CommandWord[] = [],
  more: Partial<CommandWord> = {},
): CommandWord => ({ name, aliases: [], abbreviable: true, valueFlags: [], children, ...more });
const root = word(
  'storctl',
  [
    word('volume', [
      word('ls', [], { aliases: ['list'] }),
      word('inspect'),
      word('import'),
      word('rm', [], { abbreviable: false }),
    ]),
    word('node', [word('ls')]),
    word('cluster'),
  ],
  { valueFlags: ['-o', '--output'] },
);

t.test('prefixes of commands', async (t) => {
  const expand = (...argv: string[]) => {
    const expanded = expandCommandWords(argv, root);
    return expanded.kind === 'ok' ? expanded.argv : expanded.candidates;
  };
  t.same(expand('vol', 'l'), ['volume', 'ls']);
  t.same(expand('v', 'list'), ['volume', 'ls'], 'aliases become names');
  t.same(expand('v', 'i', 'x'), ['inspect', 'import'], 'ambiguous');
  t.same(expand('v', 'r', 'db'), ['volume', 'r', 'db'], 'what destroys is written in full');
  t.same(
    expand('-o', 'n', 'n', 'ls'),
    ['-o', 'n', 'node', 'ls'],
    'values of flags are no commands',
  );
  t.same(expand('--output=n', 'n'), ['--output=n', 'node']);
  t.same(expand('c', 'v', 'l'), ['cluster', 'v', 'l'], 'arguments stay as they are');
  t.same(expand('v', '--', 'l'), ['volume', '--', 'l']);
  t.same(expand('volume', 'ls', 'v'), ['volume', 'ls', 'v']);
});

t.test('any full command line is left as it is', async () => {
  const known = fc.constantFrom(['volume', 'ls'], ['volume', 'rm'], ['node', 'ls'], ['cluster']);
  const rest = fc.array(fc.string(), { maxLength: 4 });
  fc.assert(
    fc.property(known, rest, (words, more) => {
      const argv = [...words, ...more];
      const expanded = expandCommandWords(argv, root);
      return (
        expanded.kind === 'ok' &&
        JSON.stringify(expanded.argv) === JSON.stringify(argv) &&
        JSON.stringify(expanded.command) === JSON.stringify(words)
      );
    }),
  );
});

t.test('times', async (t) => {
  t.equal(parseDurationMs('30'), 30_000);
  t.equal(parseDurationMs('1.5s'), 1_500);
  t.equal(parseDurationMs('500ms'), 500);
  t.equal(parseDurationMs('2m'), 120_000);
  t.equal(parseDurationMs('1d'), 86_400_000);
  for (const bad of ['', '0', '-1s', '1 s', '1w', 'x', '9999h']) {
    t.throws(() => parseDurationMs(bad), { code: 'INVALID_ARGUMENT' }, JSON.stringify(bad));
  }
  t.equal(formatAge(-5), '0s');
  t.equal(formatAge(59_999), '59s');
  t.equal(formatAge(3_600_000), '1h');
  t.equal(formatAge(90_061_000), '1d1h');
});

t.test('labels', async (t) => {
  t.same(parseLabelChanges(['zone=a', 'x/y=', 'old-']), {
    set: { zone: 'a', 'x/y': '' },
    remove: ['old'],
  });
  t.same(parseNewLabels(['a=b', 'c=']), { a: 'b', c: '' });
  for (const bad of [['a'], ['=v'], ['-'], ['a=ü'], ['a=1', 'a=2'], ['a=1', 'a-'], ['ä-']]) {
    t.throws(() => parseLabelChanges(bad), { code: 'INVALID_ARGUMENT' }, JSON.stringify(bad));
  }
  t.throws(() => parseNewLabels(['a-']), { code: 'INVALID_ARGUMENT' });
});

t.test('zero runs cover a piece and agree with a look at every byte', async () => {
  const spots = fc.array(fc.tuple(fc.double({ min: 0, max: 0.999, noNaN: true }), fc.nat(255)), {
    maxLength: 6,
  });
  fc.assert(
    fc.property(fc.nat(5 * zeroGrainBytes), spots, fc.nat(100), (length, marks, offset) => {
      const whole = new Uint8Array(offset + length);
      const piece = whole.subarray(offset);
      for (const [at, value] of marks) if (length > 0) piece[Math.floor(at * length)] = value;
      const runs = zeroRuns(piece, length);
      let next = 0;
      for (const [index, run] of runs.entries()) {
        if (run.start !== next || run.length <= 0) return false;
        if (index > 0 && runs[index - 1]?.zero === run.zero) return false;
        if (run.start % zeroGrainBytes !== 0) return false;
        for (let at = run.start; at < run.start + run.length; at += zeroGrainBytes) {
          const grain = piece.subarray(at, Math.min(at + zeroGrainBytes, run.start + run.length));
          if (grain.every((byte) => byte === 0) !== run.zero) return false;
        }
        next += run.length;
      }
      return next === length;
    }),
    { numRuns: 60 },
  );
});

t.test('nothing that a table shows can move the cursor or add lines', async (t) => {
  const columns = [{ title: 'A', cell: (text: string) => text }];
  const text = renderTable(['x\u001b[2Jy\nz\r'], columns, { wide: false, headers: true });
  t.equal(text, 'A\nx [2Jy z\n');
  t.equal(
    renderSheet([
      ['Empty', ''],
      ['One', '1\n2'],
    ]),
    'One:   1 2\n',
  );
});

t.test('bounded tasks run side by side up to the limit and report the first failure', async (t) => {
  const tasks = new BoundedTasks(3);
  let running = 0;
  let most = 0;
  let ended = 0;
  for (let i = 0; i < 20; i++) {
    await tasks.add(async () => {
      most = Math.max(most, (running += 1));
      await new Promise((resolve) => setImmediate(resolve));
      running -= 1;
      ended += 1;
    });
  }
  await tasks.drain();
  t.same([most, running, ended], [3, 0, 20]);
  await tasks.add(() => Promise.reject(new Error('first')));
  await tasks.add(() => Promise.reject(new Error('second'))).catch(() => {});
  await t.rejects(tasks.drain(), { message: 'first' });
  await t.rejects(
    tasks.add(async () => {}),
    { message: 'first' },
  );
});

t.test('help exit-codes has every code that an error can end with, and no other', async (t) => {
  const known = new Set(exitCodes.map((row) => row.status));
  for (const code of errorCodes) t.ok(known.has(exitCodeOf[code]), code);
  const used = new Set<number>([0, 10, ...Object.values(exitCodeOf)]);
  t.same(
    [...known].filter((status) => !used.has(status)),
    [],
  );
});
