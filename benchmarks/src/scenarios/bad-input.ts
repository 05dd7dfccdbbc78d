import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createHash, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { NbdClient } from 'nbd-client-js';
import { AgentProcess } from '../harness/agent-process.ts';
import { describeResult, type CommandResult } from '../harness/run-command.ts';
import type { TestCluster } from '../harness/test-cluster.ts';
import { expect, type CheckList } from './check-list.ts';

const volume = 'precious';
const sizeBytes = 16 * 1024 * 1024;
/** An agent that must refuse to start has this long to say so (ms). */
const refusalMs = 20_000;

/** Exit codes: docs/operating/exit-codes.md */
const exit = { invalid: 2, notFound: 3, exists: 4, precondition: 5, unsafePlan: 11 };

/**
 * Everything a person may get wrong with storctl or with an agent's folder: a clear message, the
 * documented exit code, nothing half-created, and the data of a healthy volume untouched.
 */
export async function badInput(cluster: TestCluster, checks: CheckList): Promise<void> {
  await cluster.must('volume', 'create', volume, '--size', String(sizeBytes), '--replicas', '3');
  const hash = await fillVolume(cluster, 0);
  await badVolumes(cluster, checks);
  await badNodeOrders(cluster, checks);
  await unknownExport(cluster, checks);
  await secondAgent(cluster, checks);
  await foreignFolder(cluster, checks);
  await newerFormat(cluster, checks);
  await checks.run('the volume is healthy and unchanged after all of it', async () => {
    await cluster.waitHealth(volume, 'healthy');
    expect((await readHash(cluster, 1)) === hash, 'its contents have changed');
  });
}

async function fillVolume(cluster: TestCluster, index: number): Promise<string> {
  const client = await NbdClient.connect({ uri: cluster.tcpUri(index, volume) });
  const bytes = randomBytes(sizeBytes);
  await client.write(0, bytes);
  await client.flush();
  await client.disconnect();
  return createHash('sha256').update(bytes).digest('hex');
}

async function readHash(cluster: TestCluster, index: number): Promise<string> {
  const client = await NbdClient.connect({ uri: cluster.tcpUri(index, volume) });
  const bytes = await client.read(0, sizeBytes);
  await client.disconnect();
  return createHash('sha256').update(bytes).digest('hex');
}

/** All that a half-created volume would leave: names in the list, replicas on the disks. */
async function traces(cluster: TestCluster): Promise<string> {
  const listed = await cluster.must('volume', 'ls', '-o', 'name', '--no-headers');
  const onDisk = cluster.agents.map((agent) => {
    const folder = join(agent.dataDir, 'disks/d1/replicas');
    return readdirSync(folder).sort();
  });
  return JSON.stringify({ listed, onDisk });
}

function expectRefusal(result: CommandResult, code: number, message: RegExp): void {
  expect(result.code === code, `exit code ${result.code}, not ${code}: ${describeResult(result)}`);
  expect(/^error: /.test(result.stderr), `no "error:" on stderr: ${describeResult(result)}`);
  expect(message.test(result.stderr), `message is not like ${message.source}: ${result.stderr}`);
  expect(!/ at .*\(?.*:\d+:\d+\)?/.test(result.stderr), `a stack trace: ${result.stderr}`);
}

/** What is tried, how, its exit code and its message. */
type Refusal = [name: string, args: string[], code: number, message: RegExp];

async function badVolumes(cluster: TestCluster, checks: CheckList): Promise<void> {
  const create = ['volume', 'create'];
  const cases: Refusal[] = [
    [
      'a name that is taken',
      [...create, volume, '--size', '1GiB'],
      exit.exists,
      /precious (already|exists)/,
    ],
    ['size 0', [...create, 'zero', '--size', '0'], exit.invalid, /size 0/],
    ['size 0 with a unit', [...create, 'zero', '--size', '0GiB'], exit.invalid, /size 0/],
    [
      'more replicas than nodes',
      [...create, 'wide', '--size', '1GiB', '--replicas', '4'],
      exit.precondition,
      /4 replicas.*3 nodes|3 nodes.*4/s,
    ],
    ['a bad unit', [...create, 'odd', '--size', '5XiB'], exit.invalid, /5XiB.*512MiB/],
    ['no size', [...create, 'odd'], exit.invalid, /--size/],
    ['a bad name', [...create, '../up', '--size', '1GiB'], exit.invalid, /\.\.\/up/],
    ['a volume that is not there', ['volume', 'inspect', 'absent'], exit.notFound, /absent/],
    ['removing what is not there', ['volume', 'rm', 'absent', '-y'], exit.notFound, /absent/],
    ['an unknown verb', ['volume', 'explode'], exit.invalid, /explode/],
  ];
  await refusedAll(cluster, checks, cases);
}

/** Three replicas on three nodes, all up: none of them can go. */
async function badNodeOrders(cluster: TestCluster, checks: CheckList): Promise<void> {
  const name = cluster.agent(2).place.name;
  const stuck = new RegExp(
    `error: node ${name} is not (evacuated|decommissioned), because .* can go`,
  );
  const cases: Refusal[] = [
    ['forgetting an unknown node', ['node', 'forget', 'n99'], exit.notFound, /"n99"/],
    [
      'forgetting a node that is up, with force',
      ['node', 'forget', name, '--yes'],
      exit.precondition,
      new RegExp(`node ${name} is up, so it is not lost`),
    ],
    ['an evacuation to nowhere', ['node', 'evacuate', name], exit.unsafePlan, stuck],
    ['a decommission to nowhere', ['node', 'decommission', name], exit.unsafePlan, stuck],
    ['a verb that is shortened', ['node', 'forg', name], exit.invalid, /forg/],
    ['what if an unknown node', ['simulate', '--down', 'node=n99'], exit.notFound, /n99/],
    ['a vote for an unknown node', ['cluster', 'promote', 'n99'], exit.notFound, /n99/],
    ['a token that is not there', ['token', 'rm', '01234567'], exit.notFound, /01234567/],
  ];
  await refusedAll(cluster, checks, cases);
  await checks.run('storctl: no order was recorded of them', async () => {
    const { spec } = JSON.parse(await cluster.must('node', 'inspect', name, '-o', 'json')) as {
      spec: object;
    };
    const left = Object.values(spec).filter((wish) => wish !== null);
    expect(left.length === 0, `something is wanted of ${name}: ${JSON.stringify(spec)}`);
  });
}

async function refusedAll(
  cluster: TestCluster,
  checks: CheckList,
  cases: readonly Refusal[],
): Promise<void> {
  for (const [at, [name, args, code, message]] of cases.entries()) {
    await checks.run(`storctl: ${name}`, async () => {
      const before = await traces(cluster);
      // one as people call it: a process for each takes more than all the rest
      const result = at === 0 ? cluster.storctlProcess(...args) : cluster.storctl(...args);
      expectRefusal(await result, code, message);
      const after = await traces(cluster);
      expect(before === after, `something was left behind: ${before} -> ${after}`);
    });
  }
}

async function unknownExport(cluster: TestCluster, checks: CheckList): Promise<void> {
  await checks.run('NBD: an unknown export', async () => {
    for (const uri of [cluster.tcpUri(0, 'absent'), cluster.unixUri(2, 'absent')]) {
      const outcome = await NbdClient.connect({ uri }).then(
        async (client) => {
          await client.close();
          return 'it connected';
        },
        (error: unknown) => (error as Error).message,
      );
      expect(/absent/.test(outcome), `the refusal does not name the export: ${outcome}`);
    }
  });
}

/** A process that must refuse: runs until it ends by itself, and is ended if it does not. */
async function expectAgentRefusal(
  agent: AgentProcess,
  code: number,
  message: RegExp,
): Promise<void> {
  const logBefore = agent.log().length;
  agent.start();
  const timer = setTimeout(() => void agent.kill9(), refusalMs);
  const ended = await agent.waitExit();
  clearTimeout(timer);
  const said = agent.log().slice(logBefore);
  expect(ended.code === code, `exit ${JSON.stringify(ended)}, not ${code}: ${said.slice(-2_000)}`);
  expect(message.test(said), `message is not like ${message.source}: ${said.slice(-2_000)}`);
}

/** An agent beside those of the cluster, with a config made from one of theirs. */
function strangerAgent(
  cluster: TestCluster,
  index: number,
  name: string,
  change: (config: string) => string,
): AgentProcess {
  const model = cluster.agent(index);
  const dir = join(cluster.dir, name);
  mkdirSync(dir, { recursive: true });
  const stranger = new AgentProcess({ ...model.place, name, dir });
  // Not the pid file nor the sockets of the agent that it was modelled on.
  const config = cluster
    .configOf(index, model.dataDir)
    .replace(/^pidFile: .*$/m, `pidFile: ${join(dir, 'agent.pid')}`)
    .replace(/^nbdUnixDir: .*$/m, `nbdUnixDir: ${join(dir, 'run')}`);
  writeFileSync(stranger.configPath, change(config));
  return stranger;
}

async function secondAgent(cluster: TestCluster, checks: CheckList): Promise<void> {
  await checks.run('agent: a port in use', async () => {
    const second = strangerAgent(cluster, 0, 'same-ports', (config) =>
      config.replace(/^dataDir: .*$/m, `dataDir: ${join(cluster.dir, 'same-ports/data')}`),
    );
    const { host } = second.place;
    await expectAgentRefusal(second, exit.precondition, new RegExp(`${host}:\\d+.*(use|held)`));
    expect(cluster.agent(0).running, 'the agent that was there before has ended');
  });
  await checks.run('agent: a data folder in use', async () => {
    const second = strangerAgent(cluster, 0, 'same-folder', (config) =>
      config.replace(
        /api: \d+, http: \d+, peers: \d+, nbd: \[\d+\]/,
        'api: 0, http: 0, peers: 0, nbd: [0]',
      ),
    );
    await expectAgentRefusal(second, exit.precondition, /(in use|held|locked)/);
    expect(cluster.agent(0).running, 'the agent that was there before has ended');
  });
}

async function foreignFolder(cluster: TestCluster, checks: CheckList): Promise<void> {
  const victim = cluster.agent(2);
  await checks.run('agent: a data folder of another cluster', async () => {
    await victim.stop();
    const otherId = `c-${randomBytes(8).toString('hex')}`;
    const stranger = strangerAgent(cluster, 2, 'other-cluster', (config) =>
      config.replaceAll(cluster.clusterId, otherId),
    );
    await expectAgentRefusal(
      stranger,
      exit.precondition,
      new RegExp(`${cluster.clusterId}[^]*${otherId}|${otherId}[^]*${cluster.clusterId}`),
    );
  });
  await checks.run('agent: its own cluster starts again with that folder', async () => {
    if (!victim.running) victim.start();
    await victim.waitReady();
    await cluster.waitHealth(volume, 'healthy');
  });
}

async function newerFormat(cluster: TestCluster, checks: CheckList): Promise<void> {
  const agent = cluster.agent(1);
  const files = [join(agent.dataDir, 'identity.json'), join(agent.dataDir, 'disks/d1/disk.json')];
  for (const file of files) {
    const short = file.slice(agent.dataDir.length + 1);
    await checks.run(`agent: a newer format in ${short}`, async () => {
      await agent.stop();
      const text = readFileSync(file, 'utf8');
      const newer = text.replace(/("formatVersion":\s*)(\d+)/, '$17');
      expect(newer !== text, `${short} has no formatVersion: ${text}`);
      writeFileSync(file, newer);
      try {
        await expectAgentRefusal(agent, exit.precondition, /(format|version)[^]*7/);
        expect(readFileSync(file, 'utf8') === newer, `${short} was overwritten`);
      } finally {
        writeFileSync(file, text);
      }
      agent.start();
      await agent.waitReady();
      await cluster.waitHealth(volume, 'healthy');
    });
  }
}
