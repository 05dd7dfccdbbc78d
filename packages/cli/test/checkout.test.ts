import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { parse, stringify } from 'yaml';
import { findAgent } from '../src/checkout/agent-process.ts';
import { reservePorts } from '@stor/runtime/testing';
import { CheckoutCluster } from '../src/checkout/checkout-cluster.ts';
import { planLayout } from '../src/checkout/checkout-layout.ts';
import { proveCluster } from '../src/checkout/prove-cluster.ts';
import { nodeNamesIn, purgeCheckout, stopAgents } from '../src/checkout/stop-checkout.ts';
import type { NbdSession } from '../src/nbd-session.ts';
import { FakeCluster } from './support/fake-cluster.ts';
import { MemoryExport } from './support/memory-nbd.ts';

const fakeAgent = fileURLToPath(new URL('support/fake-agent.mjs', import.meta.url));
const randomBytes = (length: number) => new Uint8Array(length).fill(0xab);

/** Two nodes' ports begin 10 and 20 above the base. */
const basePortCount = 40;

async function makeCheckout(t: Test) {
  const dir = t.testdir({ 'node-agent': { src: {} } });
  const agentMain = join(dir, 'node-agent/src/main.js');
  writeFileSync(join(dir, 'package.json'), '{"type":"module"}');
  cpSync(fakeAgent, agentMain);
  const stateDir = join(dir, '.stor');
  const [basePort = 0] = await reservePorts(basePortCount);
  t.teardown(async () => {
    for (const name of nodeNamesIn(stateDir))
      rmSync(join(stateDir, name, 'behaviour'), { force: true });
    for (const pidFile of nodeNamesIn(stateDir).map((name) => join(stateDir, name, 'agent.pid'))) {
      const agent = findAgent(pidFile, pidFile.replace('agent.pid', 'config.yaml'));
      if (agent) process.kill(agent.pid, 'SIGKILL');
    }
  });
  const open = () => CheckoutCluster.create({ stateDir, agentMain, nodes: 2, basePort });
  return { dir, stateDir, basePort, agentMain, open };
}

t.test('ports and config follow the design', async (t) => {
  const layout = planLayout({ nodes: 3, basePort: 17_100, randomBytes });
  t.same(layout.endpoints, ['127.0.0.1:17110', '127.0.0.1:17120', '127.0.0.1:17130']);
  t.same(layout.nodes[1], {
    id: 'n-abababababababab',
    name: 'n2',
    api: 17120,
    http: 17121,
    peers: 17122,
    nbd: [17123],
  });
  t.match(layout.clusterId, /^c-[0-9a-f]{16}$/);
});

t.test('up starts, starts again only what is missing, down stops, purge removes', async (t) => {
  const { stateDir, open, basePort } = await makeCheckout(t);
  const cluster = open();
  t.same((await cluster.start()).sort(), ['n1', 'n2']);
  const config = parse(readFileSync(join(stateDir, 'n1/config.yaml'), 'utf8')) as Record<
    string,
    unknown
  >;
  t.match(config, {
    clusterName: 'checkout',
    nodeName: 'n1',
    dataDir: join(stateDir, 'n1/data'),
    pidFile: join(stateDir, 'n1/agent.pid'),
    listen: {
      host: '127.0.0.1',
      api: basePort + 10,
      http: basePort + 11,
      peers: basePort + 12,
      nbd: [basePort + 13],
    },
    members: [{ name: 'n1' }, { name: 'n2', api: `127.0.0.1:${basePort + 20}` }],
  });
  t.equal(statSync(config['nbdUnixDir'] as string).mode & 0o777, 0o700);
  t.same(await open().start(), [], 'a second up finds them');
  const [first, second] = cluster.layout.nodes;
  if (!first || !second) throw new Error('two nodes');
  const before = cluster.running(first);
  const victim = cluster.running(second);
  if (!before || !victim) throw new Error('both run');
  process.kill(victim.pid, 'SIGKILL');
  while (cluster.running(second)) await new Promise((resolve) => setImmediate(resolve));
  t.same(await open().start(), ['n2']);
  t.same(cluster.running(first), before, 'the other one was left alone');
  await t.rejects(purgeCheckout(stateDir), {
    code: 'FAILED_PRECONDITION',
    message: /n1, n2 still runs/,
  });
  t.ok(existsSync(join(stateDir, 'n1/data')));
  t.same(
    (await stopAgents(stateDir)).map(({ outcome }) => outcome),
    ['stopped', 'stopped'],
  );
  t.same(
    (await stopAgents(stateDir)).map(({ outcome }) => outcome),
    ['was not running', 'was not running'],
  );
  t.same(open().layout, cluster.layout, 'the cluster is the same after a stop');
  writeFileSync(join(stateDir, 'mine.txt'), 'of somebody else');
  await purgeCheckout(stateDir);
  t.same(readdirSync(stateDir), ['mine.txt'], 'purge removes what up made and nothing else');
});

t.test('a port in use and an agent that ends are told with their reasons', async (t) => {
  const { stateDir, open, basePort } = await makeCheckout(t);
  const blocker = createServer().listen(basePort + 13, '127.0.0.1');
  await once(blocker, 'listening');
  await t.rejects(open().start(), {
    code: 'IN_USE',
    message: new RegExp(`port ${basePort + 13} \\(NBD of n1\\) is in use by another process`),
  });
  t.equal(
    open().layout.nodes.some((node) => open().running(node)),
    false,
    'nothing was started',
  );
  blocker.close();
  await once(blocker, 'close');
  writeFileSync(join(stateDir, 'n2/agent.log'), 'a line of an earlier run\n');
  writeFileSync(join(stateDir, 'n2/behaviour'), 'fail');
  const error = await open()
    .start()
    .then(
      () => null,
      (thrown: Error) => thrown,
    );
  t.match(error?.message, /agent n2 ended \(exit code 5\)/);
  t.match(
    error?.message,
    /error data folder of another cluster \{"folder":"x"\}\nerror: this node belongs/,
  );
  t.notMatch(error?.message, /earlier run/);
  // n1 may still be on its way up: the next up must cope with that
  rmSync(join(stateDir, 'n2/behaviour'));
  while (!open().running(open().layout.nodes[0]!))
    await new Promise((resolve) => setImmediate(resolve));
  t.same(await open().start(), ['n2']);
  await stopAgents(stateDir);
});

t.test(
  'edits of a config stay, a moved checkout gets its new paths, lost ids are not made up',
  async (t) => {
    const { dir, stateDir, open, agentMain, basePort } = await makeCheckout(t);
    open();
    const file = join(stateDir, 'n1/config.yaml');
    const config = parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
    writeFileSync(file, stringify({ ...config, logLevel: 'debug' }));
    open();
    t.match(parse(readFileSync(file, 'utf8')), { logLevel: 'debug' });
    const moved = join(dir, 'moved');
    renameSync(stateDir, moved);
    CheckoutCluster.create({ stateDir: moved, agentMain, nodes: 2, basePort });
    t.match(parse(readFileSync(join(moved, 'n1/config.yaml'), 'utf8')), {
      logLevel: 'debug',
      nodeId: config['nodeId'],
      dataDir: join(moved, 'n1/data'),
      pidFile: join(moved, 'n1/agent.pid'),
    });
    rmSync(join(moved, 'cluster.yaml'));
    const again = () => CheckoutCluster.create({ stateDir: moved, agentMain, nodes: 2, basePort });
    t.throws(again, { code: 'FOREIGN_DATA', message: /n1\/data.*no cluster.yaml/ });
    writeFileSync(join(moved, 'cluster.yaml'), 'clusterId: 7\n');
    t.throws(again, { code: 'FOREIGN_DATA', message: /damaged/ });
    await purgeCheckout(moved);
    t.notOk(existsSync(moved), 'purge works without cluster.yaml too');
  },
);

t.test('a socket path that would be too long goes elsewhere', async (t) => {
  const { dir, agentMain, basePort } = await makeCheckout(t);
  const stateDir = join(dir, 'deep'.repeat(25), '.stor');
  CheckoutCluster.create({ stateDir, agentMain, nodes: 1, basePort });
  const config = parse(readFileSync(join(stateDir, 'n1/config.yaml'), 'utf8')) as {
    nbdUnixDir: string;
  };
  t.ok(`${config.nbdUnixDir}/nbd-9.sock`.length < 108);
  t.equal(statSync(config.nbdUnixDir).mode & 0o777, 0o700);
  await purgeCheckout(stateDir);
  t.notOk(existsSync(config.nbdUnixDir));
});

t.test('only a process that runs this very config is ours', async (t) => {
  const dir = t.testdir({
    'node-agent': { src: { 'main.js': 'setInterval(() => {}, 1000); console.log("on")' } },
  });
  const configFile = join(dir, 'config.yaml');
  const pidFile = join(dir, 'agent.pid');
  const main = join(dir, 'node-agent/src/main.js');
  const start = async (args: string[]) => {
    const child = spawn(process.execPath, args, { cwd: dir, stdio: ['ignore', 'pipe', 'inherit'] });
    t.teardown(() => child.kill('SIGKILL'));
    await once(child.stdout, 'data');
    writeFileSync(pidFile, `${child.pid}\n`);
    return child;
  };
  t.equal(findAgent(pidFile, configFile), null, 'no pid file');
  for (const text of ['', 'x', '-1', '0', '1 2']) {
    writeFileSync(pidFile, text);
    t.equal(findAgent(pidFile, configFile), null, JSON.stringify(text));
  }
  writeFileSync(pidFile, String(process.pid));
  t.equal(findAgent(pidFile, configFile), null, 'this test');
  await start([main, '--config', join(dir, 'other.yaml')]);
  t.equal(findAgent(pidFile, configFile), null, 'an agent of another cluster');
  mkdirSync(join(dir, 'x'));
  cpSync(main, join(dir, 'x/main.js'));
  await start([join(dir, 'x/main.js'), '--config', configFile]);
  t.equal(findAgent(pidFile, configFile), null, 'another program');
  const relative = await start([main, '--config=config.yaml']);
  t.equal(
    findAgent(pidFile, configFile)?.pid,
    relative.pid,
    'a relative path counts from its folder',
  );
  const ours = await start([main, '--config', configFile]);
  t.equal(findAgent(pidFile, configFile)?.pid, ours.pid);
  ours.kill('SIGKILL');
  await once(ours, 'close');
  t.equal(findAgent(pidFile, configFile), null, 'it is gone');
});

t.test('the proof tells a working cluster from one that is not', async (t) => {
  const cluster = new FakeCluster();
  const api = cluster.api();
  const device = new MemoryExport(16 * 2 ** 20);
  const lines: string[] = [];
  const uris: string[] = [];
  const prove = (session: () => NbdSession) =>
    proveCluster({
      api,
      openNbd: async (uri) => {
        uris.push(uri);
        return session();
      },
      writeBase: 'nbd://127.0.0.1:1',
      readBase: 'nbd://127.0.0.1:2',
      replicas: 3,
      say: (line) => lines.push(line),
    });
  await api.createVolume({ name: 'up-proof-mine', sizeBytes: 4096, replicas: 1, labels: {} });
  await api.createVolume({
    name: 'up-proof-0',
    sizeBytes: 4096,
    replicas: 1,
    labels: { 'stor/up-proof': 'true' },
  });
  const result = await prove(() => device.session());
  t.equal(result.writtenSha256, result.readSha256);
  t.same(uris, [`nbd://127.0.0.1:1/${result.volume}`, `nbd://127.0.0.1:2/${result.volume}`]);
  t.match(lines.join('\n'), new RegExp(`${result.writtenSha256}[^]*${result.readSha256}`));
  t.equal(device.counts.flush, 1);
  t.ok(device.allocated.size > 0, 'it wrote something');
  t.same(
    cluster.volumes.map((volume) => volume.metadata.name),
    ['up-proof-mine'],
    'it removed its own volumes only',
  );
  const order = cluster.calls.map((call) => call.method);
  t.same(order.slice(-4), ['createVolume', 'detachVolume', 'detachVolume', 'deleteVolume']);
  const lying = () => {
    const session = device.session();
    const { read } = session;
    session.read = async (offset, length) => {
      const bytes = await read(offset, length);
      if (offset === 5 * 2 ** 20) bytes[77] = (bytes[77] ?? 0) ^ 1;
      return bytes;
    };
    return session;
  };
  await t.rejects(prove(lying), {
    code: 'CHECKSUM_MISMATCH',
    message: /volume up-proof-.* is kept/,
  });
  t.equal(cluster.volumes.length, 2);
});
