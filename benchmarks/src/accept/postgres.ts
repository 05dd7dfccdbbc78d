import { setTimeout as delay } from 'node:timers/promises';
import { AcceptReport, seconds } from '../harness/accept-report.ts';
import { numberOption, parseOptions } from '../harness/parse-options.ts';
import { findPostgres } from '../harness/postgres-server.ts';
import { PostgresStage, postgresVolume } from '../harness/postgres-stage.ts';
import { waitFor } from '../harness/wait-for.ts';

const usage = 'usage: npm run accept -- postgres [--seconds 15] [--scale 5] [--clients 4]';
const { values } = parseOptions(usage, {
  options: {
    /** how long the load goes on after each kill */
    seconds: { type: 'string', default: '15' },
    /** of pgbench's tables: some 15 MiB each */
    scale: { type: 'string', default: '5' },
    /** connections of each of the two loads */
    clients: { type: 'string', default: '4' },
  },
});
const loadSeconds = numberOption(usage, 'seconds', values.seconds);
const scale = numberOption(usage, 'scale', values.scale);
const clients = numberOption(usage, 'clients', values.clients);
const report = new AcceptReport();

/** Every committed transaction is there, whole; and pgbench's own sums agree. */
async function checkData(stage: PostgresStage, name: string): Promise<void> {
  const { acknowledged, lost, wrong } = await stage.ledger.check();
  for (const line of wrong.slice(0, 20)) process.stderr.write(`${line}\n`);
  if (lost.length > 0) process.stderr.write(`lost: ${lost.slice(0, 20).join(' ')}\n`);
  const there = acknowledged - lost.length;
  report.add(
    `${name}: committed transactions that are there`,
    `${there} of ${acknowledged}`,
    'all',
    lost.length === 0 && acknowledged > 0,
  );
  report.add(`${name}: halves, and rows never sent`, `${wrong.length}`, '0', wrong.length === 0);
  const [sums = ''] = await stage.server.sql(
    `SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches),
            (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0) FROM pgbench_history),
            (SELECT count(*) FROM pgbench_history)`,
  );
  const [accounts, branches, tellers, history, count] = sums.split('|');
  const isEqual = new Set([accounts, branches, tellers, history]).size === 1 && Number(count) > 0;
  report.add(
    `${name}: pgbench's four sums`,
    isEqual ? `equal, ${count} transactions` : sums,
    'equal',
    isEqual,
  );
}

/** Kills one agent under load; the same server goes on, and what it said is kept. */
async function killAgent(stage: PostgresStage, name: string, index: number): Promise<void> {
  const { cluster, server, ledger } = stage;
  const { pid } = server;
  const agent = cluster.agent(index);
  stage.startLoad(clients);
  await waitFor('commits', () => ledger.acknowledged > 0);
  await delay(2_000);
  ledger.watchPause();
  const before = ledger.acknowledged;
  await agent.kill9();
  await delay(loadSeconds * 1_000);
  const after = ledger.acknowledged;
  await waitFor('commits after the kill', () => ledger.acknowledged > after + 10, {
    deadlineMs: 60_000,
  });
  const isSame = server.pid !== null && server.pid === pid;
  report.add(`${name}: the database`, isSame ? 'goes on' : 'ended', 'goes on', isSame);
  report.add(
    `${name}: longest time without a commit`,
    seconds(ledger.longestPauseMs),
    'for information',
    true,
  );
  report.add(
    `${name}: commits noted meanwhile`,
    `${ledger.acknowledged - before}`,
    'for information',
    true,
  );
  agent.start();
  await agent.waitReady();
  // under load still
  await cluster.waitHealth(postgresVolume, 'healthy', 180_000);
  await cluster.waitFit();
  await stage.stopLoad();
  await checkData(stage, name);
}

async function replicaDies(stage: PostgresStage): Promise<void> {
  const primary = await stage.cluster.primary(postgresVolume);
  const replicas = await stage.replicaNodes();
  const index = replicas.find((each) => each !== primary && each !== stage.host) ?? -1;
  await killAgent(stage, "a replica's node", index);
}

/** A node that is reached is the primary, so that is at first the agent of the database's own host. */
async function ownAgentDies(stage: PostgresStage): Promise<void> {
  const primary = await stage.cluster.primary(postgresVolume);
  const isOwn = primary === stage.host;
  report.add("the primary is the host's own agent", isOwn ? 'yes' : 'no', 'yes', isOwn);
  await killPrimary(stage, "the host's own agent", stage.host);
}

/** The primary is on another node, which has a replica too. */
async function primaryDies(stage: PostgresStage): Promise<void> {
  const { cluster } = stage;
  const replicas = await stage.replicaNodes();
  const primary = await cluster.primary(postgresVolume);
  let index = primary ?? stage.host;
  if (!replicas.includes(index)) {
    index = replicas[0] ?? -1;
    const { name } = cluster.agent(index).place;
    await cluster.must('volume', 'move-primary', postgresVolume, '--to', name);
  }
  await killPrimary(stage, "the primary's node", index);
}

async function killPrimary(stage: PostgresStage, name: string, index: number): Promise<void> {
  await killAgent(stage, name, index);
  const now = await stage.cluster.primary(postgresVolume);
  const isOther = now !== null && now !== index;
  report.add(`${name}: another one serves now`, isOther ? 'yes' : 'no', 'yes', isOther);
}

/** All of the database's host dies at once, in the midst of writing: the next host takes the volume over. */
async function hostDies(stage: PostgresStage): Promise<void> {
  const { cluster, server, ledger } = stage;
  stage.startLoad(clients);
  const before = ledger.acknowledged;
  await waitFor('commits', () => ledger.acknowledged > before + 100);
  await delay(3_000);
  const startMs = performance.now();
  const old = stage.host;
  await stage.killHost();
  const next = cluster.agents.findIndex((_, index) => index !== old);
  await waitFor('the volume to be mounted on the next host', () => stage.mount(next), {
    deadlineMs: 60_000,
    intervalMs: 500,
  });
  await server.start();
  const tookMs = performance.now() - startMs;
  report.add(
    'the whole host: serves on the next one',
    seconds(tookMs),
    'under 60 s',
    tookMs < 60_000,
  );
  await checkData(stage, 'the whole host');
}

/** Every page and index, by PostgreSQL's own tools. */
async function checkPages(stage: PostgresStage): Promise<void> {
  const { server } = stage;
  const index = ['--install-missing', '--heapallindexed', '--parent-check'];
  const amcheck = await server.run('pg_amcheck', ...server.session, ...index);
  if (amcheck.code !== 0) process.stderr.write(`${amcheck.stdout}${amcheck.stderr}\n`);
  report.add(
    'pg_amcheck of tables and indexes',
    amcheck.code === 0 ? 'no fault' : 'faults',
    'no fault',
    amcheck.code === 0,
  );
  await server.stop();
  const sums = await server.run('pg_checksums', '--check', '-D', server.places.dataDir);
  const [, bad = '?'] = /Bad checksums: +([0-9]+)/.exec(sums.stdout) ?? [];
  const [, blocks = '?'] = /Blocks scanned: +([0-9]+)/.exec(sums.stdout) ?? [];
  report.add(
    'pages with a wrong checksum',
    `${bad} of ${blocks}`,
    '0',
    sums.code === 0 && bad === '0',
  );
}

async function run(programs: string): Promise<boolean> {
  const stage = await PostgresStage.create(programs, clients);
  try {
    await stage.start('2GiB', scale);
    await report.part('replica', () => replicaDies(stage));
    await report.part('agent', () => ownAgentDies(stage));
    await report.part('primary', () => primaryDies(stage));
    await report.part('host', () => hostDies(stage));
    await report.part('pages', () => checkPages(stage));
  } catch (error) {
    process.stderr.write(`${stage.server.logTail()}\n${stage.cluster.logTails()}\n`);
    throw error;
  } finally {
    await stage.close();
  }
  return report.finish();
}

const found = findPostgres();
if (process.getuid?.() !== 0) {
  process.stderr.write('error: only root can mount volumes, and run a database as another user\n');
  process.exitCode = 2;
} else if ('missing' in found) {
  process.stderr.write(`error: missing: ${found.missing}\n`);
  process.exitCode = 2;
} else {
  process.exitCode = (await run(found.programs)) ? 0 : 1;
}
