// Every script says what it does when it is asked, and starts nothing.
import { join } from 'node:path';
import t from 'tap';
import { checkoutRoot } from '../benchmarks/src/harness/checkout.ts';
import { describeResult, runCommand } from '../benchmarks/src/harness/run-command.ts';
import { ensureBuilt } from './support/cluster.ts';

const acceptRuns = 'control fast lanes postgres qos replication scale skeleton store'.split(' ');

function script(...args: string[]): ReturnType<typeof runCommand> {
  const [file = '', ...rest] = args;
  return runCommand(process.execPath, [join(checkoutRoot(), file), ...rest], {
    env: { STOR_SKIP_BUILD: '1' },
  });
}

const scripts = ['up', 'down', 'test', 'check', 'accept', 'bench', 'soak', 'sim'].map((name) => [
  `scripts/${name}.mjs`,
]);
const programs = [
  ...scripts,
  ['packages/sim/bin/mutations.mjs'],
  ...acceptRuns.map((name) => ['scripts/accept.mjs', name]),
];

t.before(ensureBuilt);

for (const program of programs) {
  t.test(`${program.join(' ')} --help`, async (t) => {
    const result = await script(...program, '--help');
    t.equal(result.code, 0, describeResult(result));
    t.match(result.stdout, /^usage: /i);
    t.equal(result.stderr, '');
  });
}

t.test('what is not known is refused without a stack trace', async (t) => {
  for (const program of [['scripts/sim.mjs'], ['scripts/accept.mjs', 'store']]) {
    const result = await script(...program, '--sneeze');
    t.equal(result.code, 2, describeResult(result));
    t.match(result.stderr, /^error: Unknown option '--sneeze'[^]*usage: /);
    t.notMatch(result.stderr, /^ +at /m);
  }
});

t.test('a bench of a size or a number that is none is refused before it starts', async (t) => {
  const cases: [option: string, value: string, message: RegExp][] = [
    ['--size', 'large', /^error: --size: .*"large" is not valid.*512MiB/],
    ['--size', '5XiB', /^error: --size: .*"5XiB" is not valid/],
    ['--size', '0', /^error: --size: it must be at least 16MiB/],
    ['--rounds', 'two', /^error: --rounds: "two" is not a whole number above 0/],
    ['--seconds', '0', /^error: --seconds: "0" is not a whole number above 0/],
  ];
  for (const [option, value, message] of cases) {
    // nothing is measured if it is taken
    const result = await script('scripts/bench.mjs', '--only', 'nothing', option, value);
    t.equal(result.code, 2, describeResult(result));
    t.match(result.stderr, message);
  }
  const taken = await script('scripts/bench.mjs', '--only', 'nothing', '--size', '512MiB');
  t.match(taken.stderr, /no workload's name holds nothing/);
});

t.test('an acceptance run that is not there', async (t) => {
  const result = await script('scripts/accept.mjs', 'sneeze');
  t.equal(result.code, 2);
  t.match(result.stderr, /"sneeze"; there are: /);
  for (const name of acceptRuns) t.match(result.stderr, new RegExp(`\\b${name}\\b`));
});
