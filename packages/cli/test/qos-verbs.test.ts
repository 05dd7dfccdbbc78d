import t from 'tap';
import { parseQos, qosText } from '../src/core/qos-text.ts';
import { FakeCluster } from './support/fake-cluster.ts';
import { run } from './support/run.ts';

const requestOf = (cluster: FakeCluster, method: string) =>
  cluster.calls.find((call) => call.method === method)?.request;

t.test('what people write for QoS', async (t) => {
  const MiB = 2 ** 20;
  t.same(parseQos(['iops=5000,bps=100MiB', 'read-iops=1.5k, write-bps=2MB/s']), {
    set: { iops: 5_000, bps: 100 * MiB, readIops: 1_500, writeBps: 2_000_000 },
    clear: [],
  });
  t.same(parseQos(['burst=2.5x/1m,weight=200,min-iops=1k,min-bps=20MiB']).set, {
    burst: { factor: 2.5, seconds: 60 },
    weight: 200,
    minIops: 1_000,
    minBps: 20 * MiB,
  });
  t.same(parseQos(['iops=none,bps=-,burst=off,min-iops=off,read-iops=unlimited']), {
    set: { burst: { factor: 1, seconds: 1 }, minIops: 0, readIops: 0 },
    clear: ['iops', 'bps'],
  });
  t.equal(parseQos(['none']).clear.length, 10);
  t.equal(parseQos(['-']).clear.length, 10);
  const text = 'iops=5000,bps=100MiB,burst=2x/30s,weight=200,min-iops=off';
  t.equal(qosText(parseQos([text]).set), text, 'it is shown as it is written');
});

t.test('what is no QoS reaches no node', async (t) => {
  const table: [string, RegExp][] = [
    ['', /--qos "" is not valid: write NAME=VALUE/],
    ['iops', /--qos "iops" is not valid/],
    ['iops=5000,', /--qos "" is not valid/],
    ['riops=5', /--qos "riops=5" is not valid: write NAME=VALUE,\.\.\. with iops, read-iops/],
    ['toString=5', /--qos "toString=5" is not valid/],
    ['iops=0', /iops=0 is not valid/],
    ['iops=-5', /iops=-5 is not valid/],
    ['iops=1.5', /iops=1.5 is not valid: write a whole number, for example iops=5000/],
    ['iops=5000MiB', /iops=5000MiB is not valid/],
    ['iops=5,iops=6', /--qos names iops twice/],
    ['bps=fast', /bps=fast is not valid: write bytes per second/],
    ['bps=0', /bps=0 is not valid/],
    ['bps=1', /bps=1 is out of range: use whole 4KiB to 1TiB/],
    ['weight=20000', /weight=20000 is out of range/],
    ['weight=heavy', /weight=heavy is not valid: write a whole number, for example weight=200/],
    ['burst=2x', /burst=2x is not valid: write how many times the limit and for how long/],
    ['burst=2x/soon', /burst=2x\/soon is not valid/],
    ['burst=2x/500ms', /burst=2x\/0.5s is out of range/],
    ['burst=200x/30s', /burst=200x\/30s is out of range/],
    ['iops=100,read-iops=200', /read-iops=200 is above iops=100/],
    ['iops=100,min-iops=200', /min-iops=200 is above what iops=100 lets through/],
  ];
  for (const [text, message] of table) {
    for (const argv of [
      ['volume', 'create', 'db', '--size', '1GiB', '--qos', text],
      ['volume', 'update', 'db', '--qos', text],
    ]) {
      const cluster = new FakeCluster();
      await run(cluster, ['volume', 'create', 'db', '--size', '1GiB']);
      cluster.calls = [];
      const { exitCode, stderr } = await run(cluster, argv);
      t.equal(exitCode, 2, argv.join(' '));
      t.match(stderr, message, argv.join(' '));
      const changes = cluster.calls.filter(({ method }) => method !== 'getVolume');
      t.same(changes, [], 'nothing was asked for');
    }
  }
});

t.test('a volume gets its wishes, and says what holds and why', async (t) => {
  const cluster = new FakeCluster();
  const qos = 'iops=5000,burst=2x/30s,min-iops=500';
  await run(cluster, ['volume', 'create', 'db', '--size', '1GiB', '--qos', qos]);
  t.match(requestOf(cluster, 'createVolume'), {
    qos: { iops: 5_000, burst: { factor: 2, seconds: 30 }, minIops: 500 },
  });
  const sheet = (await run(cluster, ['volume', 'inspect', 'db'])).stdout;
  t.match(sheet, /QoS wanted: +iops=5000,burst=2x\/30s,min-iops=500/);
  t.match(sheet, /QoS iops: +5000 \(volume\)/);
  t.match((await run(cluster, ['volume', 'ls', '-o', 'wide'])).stdout, qos);
  t.notMatch((await run(cluster, ['volume', 'ls'])).stdout, qos);

  const changed = await run(cluster, [
    'volume',
    'update',
    'db',
    '--qos',
    'iops=9000,min-iops=none',
  ]);
  t.match(requestOf(cluster, 'updateVolume'), { qos: { iops: 9_000 }, clearQos: ['minIops'] });
  t.match(changed.stdout, /QoS iops: +5000 -> 9000/);
  t.match(changed.stdout, /QoS min-iops: +500 -> none/);
  await run(cluster, ['volume', 'update', 'db', '--qos', 'none']);
  t.notMatch((await run(cluster, ['volume', 'inspect', 'db'])).stdout, 'QoS');
});

t.test('a volume that exists with other limits is not the one that was asked for', async (t) => {
  const cluster = new FakeCluster();
  const create = ['volume', 'create', 'db', '--size', '1GiB', '--if-exists', 'ok', '--qos'];
  await run(cluster, [...create, 'iops=100']);
  t.equal((await run(cluster, [...create, 'iops=100'])).exitCode, 0);
  const { exitCode, stderr } = await run(cluster, [...create, 'iops=200']);
  t.equal(exitCode, 4);
  t.match(stderr, 'with another policy (QoS iops 100 -> 200)');
});

t.test('policies are made, shown, changed and removed', async (t) => {
  const cluster = new FakeCluster();
  const made = await run(cluster, ['policy', 'create', 'batch', '--qos', 'iops=500,weight=10']);
  t.equal(made.stdout, 'policy batch created: iops=500,weight=10\n');
  t.equal((await run(cluster, ['policy', 'create', 'batch'])).exitCode, 4);
  await run(cluster, ['volume', 'create', 'db', '--size', '1GiB', '--policy', 'batch']);
  t.match(requestOf(cluster, 'createVolume'), { policyName: 'batch' });
  const sheet = (await run(cluster, ['volume', 'inspect', 'db'])).stdout;
  t.match(sheet, /Policy: +batch/);
  t.match(sheet, /QoS iops: +500 \(policy batch\)/);
  const args = ['--qos', 'iops=800,weight=none', '--description', 'nightly jobs'];
  const changed = await run(cluster, ['policy', 'update', 'batch', ...args]);
  t.equal(changed.stdout, 'policy batch changed: iops=800; 1 volume has it\n');
  t.match(requestOf(cluster, 'updatePolicy'), {
    qos: { iops: 800 },
    clearQos: ['weight'],
    description: 'nightly jobs',
  });
  t.match(
    (await run(cluster, ['policy', 'inspect', 'batch'])).stdout,
    /Description: +nightly jobs/,
  );
  t.match((await run(cluster, ['policy', 'ls'])).stdout, /^NAME .*QOS.*VOLUMES/);
  t.equal((await run(cluster, ['policy', 'ls', '-o', 'name'])).stdout, 'gold\nbronze\nbatch\n');
  t.equal((await run(cluster, ['policy', 'rm', 'batch'])).exitCode, 5, 'a volume has it');

  const moved = await run(cluster, ['volume', 'update', 'db', '--policy', 'gold']);
  t.match(moved.stdout, /policy: +batch -> gold/);
  await run(cluster, ['volume', 'update', 'db', '--qos', 'weight=7']);
  t.match((await run(cluster, ['volume', 'inspect', 'db'])).stdout, /QoS weight: +7 \(volume\)/);
  await run(cluster, ['volume', 'update', 'db', '--policy', 'none']);
  t.match(cluster.calls.findLast(({ method }) => method === 'updateVolume')?.request, {
    policyName: '',
  });
  const gone = await run(cluster, ['policy', 'rm', 'batch']);
  t.same([gone.exitCode, gone.stdout], [0, 'policy batch removed\n']);
  t.equal((await run(cluster, ['policy', 'inspect', 'batch'])).exitCode, 3);
  t.equal((await run(cluster, ['volume', 'update', 'db', '--policy', 'batch'])).exitCode, 3);
});

t.test('what is wrong with a policy reaches no node', async (t) => {
  const table: [string[], RegExp][] = [
    [['policy', 'create', '../x'], /policy name "..\/x" is not valid/],
    [['policy', 'create', 'x', '--qos', 'iops=1,min-iops=2'], /min-iops=2 is above/],
    [['policy', 'update', 'gold'], /nothing to change was given/],
    [['policy', 'update', 'gold', '--qos', 'iops=many'], /iops=many is not valid/],
    [['volume', 'update', 'db', '--policy', 'a b'], /policy name "a b" is not valid/],
    [['volume', 'create', 'db', '--size', '1GiB', '--policy', ''], /policy name "" is not valid/],
  ];
  for (const [argv, message] of table) {
    const cluster = new FakeCluster();
    const { exitCode, stderr } = await run(cluster, argv);
    t.same([exitCode, cluster.calls.length], [2, 0], argv.join(' '));
    t.match(stderr, message);
  }
});

t.test('a disk is told what it may guarantee', async (t) => {
  const cluster = new FakeCluster();
  const id = cluster.disks[0]?.metadata.id ?? '';
  const set = await run(cluster, ['disk', 'set', id, '--iops-capacity', '20k']);
  t.equal(set.stdout, 'disk n1-d1: 20000 requests/s may be guaranteed\n');
  t.match((await run(cluster, ['disk', 'ls', '-o', 'wide'])).stdout, '20000 requests/s');
  await run(cluster, ['disk', 'set', id, '--iops-capacity', 'none', '--bps-capacity', '1GiB']);
  t.match(cluster.calls.at(-1)?.request, { iopsCapacity: 0, bpsCapacity: 2 ** 30 });
  for (const argv of [[], ['--iops-capacity', '1.5'], ['--bps-capacity', '1']]) {
    cluster.calls = [];
    const { exitCode } = await run(cluster, ['disk', 'set', id, ...argv]);
    t.same([exitCode, cluster.calls.length], [2, 0], argv.join(' '));
  }
});

t.test('tenants are given limits that their volumes share', async (t) => {
  const cluster = new FakeCluster();
  const set = await run(cluster, ['tenant', 'set', 'acme', '--qos', 'iops=20k,burst=2x/30s']);
  t.equal(set.stdout, 'tenant acme: iops=20000,burst=2x/30s for 2 volumes\n');
  t.match(
    (await run(cluster, ['tenant', 'ls'])).stdout,
    /acme +iops=20000,burst=2x\/30s +2 +n1 49.6%/,
  );
  await run(cluster, ['tenant', 'set', 'acme', '--qos', 'iops=none']);
  t.match(requestOf(cluster, 'setTenant'), { name: 'acme' });
  t.match((await run(cluster, ['tenant', 'inspect', 'acme'])).stdout, /Nodes: +n1 49.6%, n2 49.6%/);
  t.equal((await run(cluster, ['tenant', 'rm', 'acme'])).exitCode, 0);
  t.equal((await run(cluster, ['tenant', 'inspect', 'acme'])).exitCode, 3);
  for (const [argv, message] of [
    [['acme'], /nothing to change was given/],
    [['a b', '--qos', 'iops=5'], /tenant "a b" is not valid/],
    [['acme', '--qos', 'weight=5'], /weight is nothing that a tenant has/],
    [['acme', '--qos', 'min-iops=5'], /min-iops is nothing that a tenant has/],
  ] as const) {
    cluster.calls = [];
    const { exitCode, stderr } = await run(cluster, ['tenant', 'set', ...argv]);
    t.same([exitCode, cluster.calls.length], [2, 0], argv.join(' '));
    t.match(stderr, message);
  }
});

t.test('classes of work have weights and limits', async (t) => {
  const cluster = new FakeCluster();
  const shown = await run(cluster, ['cluster', 'qos']);
  t.match(shown.stdout, /CLASS +WEIGHT +IOPS +BPS\nclient +100/);
  const argv = ['cluster', 'update', '--qos-class'];
  const text = 'rebuild.weight=20,rebuild.bps=100MiB/s, scrub.iops=1.5k';
  const set = await run(cluster, [...argv, text, '--qos-class', 'resync.bps=none']);
  t.match(set.stdout, /rebuild +20 +- +100MiB\n/);
  t.match(set.stdout, /scrub +20 +1500 +-\n/);
  t.match(requestOf(cluster, 'setQosClasses'), {
    classes: [
      { name: 'rebuild', weight: 20, bps: 100 * 2 ** 20 },
      { name: 'scrub', iops: 1_500 },
      { name: 'resync', bps: 0 },
    ],
  });
  const json = await run(cluster, ['cluster', 'qos', '-o', 'json']);
  t.match(JSON.parse(json.stdout), [
    { name: 'client' },
    { name: 'rebuild', weight: 20, iops: 0, bps: 100 * 2 ** 20 },
  ]);
  await run(cluster, [...argv, 'rebuild.weight=-,rebuild.bps=none']);
  t.match((await run(cluster, ['cluster', 'qos'])).stdout, /rebuild +50 +- +-\n/);
});

t.test('what is no class reaches no node', async (t) => {
  const table: [string[], RegExp][] = [
    [[], /nothing to change was given: give --qos-class/],
    [['--qos-class', ''], /--qos-class "" is not valid: write CLASS.NAME=VALUE/],
    [['--qos-class', 'rebuild=5'], /is not valid: write CLASS/],
    [['--qos-class', 'reading.bps=5MiB'], /with client, rebuild, resync, scrub, backup and weight/],
    [['--qos-class', 'rebuild.burst=2x'], /is not valid: write CLASS/],
    [['--qos-class', 'rebuild.bps=fast'], /rebuild.bps=fast is not valid: write bytes per second/],
    [['--qos-class', 'rebuild.iops=0'], /rebuild.iops=0 is not valid/],
    [['--qos-class', 'scrub.weight=heavy'], /for example scrub.weight=200/],
    [['--qos-class', 'scrub.iops=5,scrub.iops=6'], /names scrub.iops twice/],
  ];
  for (const [options, message] of table) {
    const cluster = new FakeCluster();
    const { exitCode, stderr } = await run(cluster, ['cluster', 'update', ...options]);
    t.same([exitCode, cluster.calls.length], [2, 0], options.join(' '));
    t.match(stderr, message);
  }
  for (const text of ['scrub.weight=20000', 'client.bps=5MiB', 'rebuild.bps=1']) {
    const { exitCode } = await run(new FakeCluster(), ['cluster', 'update', '--qos-class', text]);
    t.equal(exitCode, 2, text);
  }
});

t.test('volume inspect says what requests wait for', async (t) => {
  const cluster = new FakeCluster();
  await run(cluster, ['volume', 'create', 'db', '--size', '1GiB', '--policy', 'bronze']);
  const volume = cluster.volumes.find(({ metadata }) => metadata.name === 'db');
  if (!volume) throw new Error('no volume');
  const nothing = { reason: '', source: '', limits: [], queued: 0 };
  const waited = { limitMs: 12_340, tenantMs: 0, contentionMs: 600 };
  const show = async (now: object) => {
    const { qos } = volume.status;
    if (qos) qos.throttle = { ...nothing, ...waited, ...now };
    return (await run(cluster, ['volume', 'inspect', 'db'])).stdout;
  };
  const quiet = await show({});
  t.match(quiet, /Throttled: +no\n/);
  t.match(quiet, /Waited: +12.3 s for limits, 0.6 s for others\n/);
  const own = { reason: 'limit', source: 'policy bronze', limits: ['iops', 'bps'], queued: 3 };
  t.match(await show(own), /Throttled: +by iops, bps \(policy bronze\), 3 requests wait\n/);
  const tenant = { reason: 'tenant', source: 'tenant acme', limits: ['iops'], queued: 1 };
  t.match(await show(tenant), /Throttled: +by iops \(tenant acme\), 1 request waits\n/);
  t.match(await show({ reason: 'contention', queued: 2 }), /other volumes of the node go first/);
  const json = await run(cluster, ['volume', 'inspect', 'db', '-o', 'json']);
  t.match(JSON.parse(json.stdout), { status: { qos: { throttle: { reason: 'contention' } } } });
  t.match((await run(cluster, ['volume', 'inspect', 'db', '-o', 'yaml'])).stdout, /throttle:\n/);
});
