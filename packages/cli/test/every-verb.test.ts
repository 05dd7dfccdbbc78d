// Every verb on bad input: the command line wrong, and each error that the API may answer.
import { exitCodeOf, StorError } from '@stor/protocol';
import type { ErrorCode } from '@stor/protocol';
import t from 'tap';
import type { ApiClient } from '../src/command-context.ts';
import { buildProgram, commandWordsOf } from '../src/program.ts';
import type { CommandWord } from '../src/core/command-words.ts';
import { FakeCluster } from './support/fake-cluster.ts';
import { run } from './support/run.ts';

/** Verbs that ask nothing of the API. */
const local = new Set(['help']);

function verbsBelow(word: CommandWord, path: string[]): string[][] {
  if (word.children.length === 0) return [path];
  return word.children.flatMap((child) => verbsBelow(child, [...path, child.name]));
}

async function allVerbs(): Promise<string[][]> {
  const nothing = { write: () => true };
  const io = { stdout: nothing, stderr: nothing, env: {} } as never;
  const program = buildProgram(io, () => Promise.resolve());
  return verbsBelow(commandWordsOf(program), []).filter(([first]) => !local.has(first ?? ''));
}

/** Command lines that are right, and so reach the API: any of its answers may be an error. */
const right: string[][] = [
  ['cluster', 'status'],
  ['cluster', 'members'],
  ['cluster', 'promote', 'n2'],
  ['cluster', 'demote', 'n2'],
  ['cluster', 'set', '--voters', '3'],
  ['cluster', 'backup', '/nowhere/to/be/written'],
  ['cluster', 'rebalance', 'start', '--dry-run'],
  ['cluster', 'rebalance', 'status'],
  ['cluster', 'rebalance', 'pause'],
  ['cluster', 'rebalance', 'resume'],
  ['cluster', 'rebalance', 'stop'],
  ['token', 'create', '--ttl', '5m'],
  ['token', 'ls'],
  ['token', 'rm', '01234567'],
  ['node', 'ls'],
  ['node', 'inspect', 'n9'],
  ['node', 'label', 'n9', 'a=b'],
  ['node', 'cordon', 'n9'],
  ['node', 'uncordon', 'n9'],
  ['node', 'drain', 'n9', '--no-wait'],
  ['node', 'evacuate', 'n9', '--no-wait'],
  ['node', 'maintenance', 'n9', '--for', '30m'],
  ['node', 'decommission', 'n9', '--no-wait'],
  ['node', 'forget', 'n9'],
  ['disk', 'ls'],
  ['disk', 'add', 'n9', '/mnt/x'],
  ['disk', 'inspect', 'd9'],
  ['disk', 'evacuate', 'd9', '--plan'],
  ['disk', 'set', 'd9', '--iops-capacity', '20k'],
  ['disk', 'rm', 'd9'],
  ['pool', 'ls'],
  ['pool', 'inspect', 'ssd'],
  ['pool', 'set', '--repair-reserve', '20'],
  ['volume', 'create', 'db', '--size', '1GiB'],
  ['volume', 'ls'],
  ['volume', 'inspect', 'db'],
  ['volume', 'uri', 'db'],
  ['volume', 'explain', 'db'],
  ['volume', 'update', 'db', '--shared'],
  ['volume', 'resize', 'db', '2GiB'],
  ['volume', 'move', 'db', 'r-1', '--to', 'n2', '--no-wait'],
  ['volume', 'attach', 'db'],
  ['volume', 'detach', 'db'],
  ['volume', 'attach', 'db', '--device'],
  ['volume', 'detach', 'db', '--device'],
  ['volume', 'mount', 'db', '/mnt/db'],
  ['volume', 'unmount', 'db'],
  ['volume', 'devices'],
  ['doctor'],
  ['volume', 'move-primary', 'db', '--to', 'n2'],
  ['volume', 'fence', 'db', '-y'],
  ['volume', 'recover', 'db', '--accept-unflushed-loss', '-y'],
  ['volume', 'rollback', 'db@one', '-y'],
  ['volume', 'clone', 'db@one', 'copy'],
  ['volume', 'undelete', 'db'],
  ['volume', 'rm', 'db', '-y'],
  ['snapshot', 'create', 'db@one'],
  ['snapshot', 'ls'],
  ['snapshot', 'inspect', 'db@one'],
  ['snapshot', 'diff', 'db@one', 'db@two'],
  ['snapshot', 'prune', 'db', '--keep', 'last=3', '-y'],
  ['snapshot', 'rm', 'db@one', '-y'],
  ['snapshot', 'adopt', 's-0000000000000001', 'db@found'],
  ['trash', 'ls'],
  ['trash', 'empty', 'db', '-y'],
  ['tenant', 'set', 'acme', '--qos', 'iops=5000'],
  ['tenant', 'ls'],
  ['tenant', 'inspect', 'acme'],
  ['tenant', 'rm', 'acme'],
  ['policy', 'create', 'fast', '--qos', 'iops=5000'],
  ['policy', 'ls'],
  ['policy', 'inspect', 'gold'],
  ['policy', 'update', 'gold', '--qos', 'weight=300'],
  ['policy', 'rm', 'gold'],
  ['placement', 'explain', 'db'],
  ['placement', 'violations'],
  ['rebuild', 'ls'],
  ['rebuild', 'pause', 'db'],
  ['rebuild', 'resume', 'db'],
  ['cluster', 'qos'],
  ['cluster', 'update', '--qos-class', 'rebuild.weight=20'],
  ['volume', 'publish', 'db', '--node', 'n1'],
  ['volume', 'unpublish', 'db'],
  ['scrub', 'status', 'db'],
  ['scrub', 'start', 'db'],
  ['scrub', 'pause', 'db'],
  ['scrub', 'resume', 'db'],
  ['scrub', 'stop', 'db'],
  ['scrub', 'set', '--every', '7d'],
  ['events'],
  ['simulate', '--down', 'node=n9'],
  ['upgrade', 'plan'],
];

/** As nodes answer them: without a quorum, of another cluster, and so on. */
const answers: [ErrorCode, string][] = [
  ['NOT_FOUND', 'there is no such thing'],
  ['INVALID_ARGUMENT', 'that is no name'],
  ['FAILED_PRECONDITION', 'not as things are'],
  ['CONFLICT', 'it has changed since'],
  ['UNAVAILABLE', 'the control plane has no quorum at the moment'],
  ['OUTCOME_UNKNOWN', 'it may or may not have been done'],
  ['FOREIGN_DATA', 'it belongs to another cluster'],
  ['UNAUTHENTICATED', 'the token is not known'],
  ['UNSAFE', 'that is not safe'],
  ['UNSAFE_PLAN', 'a volume would be lost'],
  ['NO_SPACE', 'no disk has room'],
  ['TIMEOUT', 'no answer in time'],
];

function failing(error: StorError): ApiClient {
  const close = (): void => {};
  return new Proxy({} as ApiClient, {
    get: (_target, method) => {
      // it is no promise itself
      if (method === 'then') return undefined;
      return method === 'close' ? close : () => Promise.reject(error);
    },
  });
}

t.test('a flag that no verb has is refused by each', async (t) => {
  const verbs = await allVerbs();
  t.ok(verbs.length > 40, `${verbs.length} verbs`);
  for (const verb of verbs) {
    const cluster = new FakeCluster();
    const name = verb.join(' ');
    const flag = await run(cluster, [...verb, '--no-such-flag']);
    t.equal(flag.exitCode, 2, `${name} --no-such-flag`);
    t.match(flag.stderr, /^error: .*(unknown option '--no-such-flag'|required option )/, name);
    t.match(flag.stderr, `storctl ${name} --help`);
    t.same([flag.stdout, cluster.calls.length], ['', 0], `${name} asks nothing`);
  }
});

t.test(
  'every verb is among those that are tried, but for what moves data or the store',
  async (t) => {
    const elsewhere = [
      'volume import',
      'volume export',
      'volume bench',
      'cluster migrate-store',
      'cluster restore',
    ];
    const tried = right.map((argv) => `${argv.join(' ')} `);
    const names = (await allVerbs()).map((verb) => verb.join(' '));
    const missing = names.filter((name) => !tried.some((line) => line.startsWith(`${name} `)));
    t.same(missing.sort(), elsewhere.sort());
  },
);

t.test('a time limit, an output or a version that is none reaches no node', async (t) => {
  for (const argv of right) {
    for (const [bad, message] of [
      [['--timeout', 'soon'], /time "soon" is not valid/],
      [['--timeout', '0'], /time "0" is not valid/],
      [['-o', 'xml'], /xml/],
      [['too', 'many', 'words', 'for', 'it'], /too many|not valid|no label|key=value/],
    ] as const) {
      // which takes any number of names
      if (bad[0] === 'too' && argv[0] === 'snapshot' && argv[1] === 'rm') continue;
      const cluster = new FakeCluster();
      const { exitCode, stdout, stderr } = await run(cluster, [...argv, ...bad]);
      const text = [...argv, ...bad].join(' ');
      t.same([exitCode, stdout, cluster.calls.length], [2, '', 0], text);
      t.match(stderr, message, text);
    }
  }
});

t.test('each error of the API has its message and its exit code, for every verb', async (t) => {
  for (const argv of right) {
    for (const [code, message] of answers) {
      const error = new StorError(code, message, { details: { fact: 'x' } });
      const openApi = () => failing(error);
      const text = `${argv.join(' ')}: ${code}`;
      const plain = await run(new FakeCluster(), argv, { openApi });
      t.equal(plain.exitCode, exitCodeOf[code], text);
      t.match(plain.stderr, message, text);
      const json = await run(new FakeCluster(), [...argv, '-o', 'json'], { openApi });
      const last = json.stderr.trim().split('\n').at(-1) ?? '';
      t.match(JSON.parse(last), { error: { code, exitCode: exitCodeOf[code] } }, text);
    }
  }
});
