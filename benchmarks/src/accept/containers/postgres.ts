import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { seconds, type AcceptReport } from '../../harness/accept-report.ts';
import type { DockerEngine } from '../../harness/docker-engine.ts';
import type { DockerStage } from '../../harness/docker-stage.ts';
import { mustRun, runCommand, type CommandResult } from '../../harness/run-command.ts';

const volume = 'pg';
const programsDir = '/usr/lib/postgresql';
/** What pgbench runs for, with both faults in it (s). */
const loadSeconds = 60;

/** A PostgreSQL beside a container, on the volume that Docker has mounted for that. Debian's postgresql. */
class Postgres {
  readonly #dir: string;
  readonly #bin: string;

  private constructor(dir: string, bin: string) {
    this.#dir = dir;
    this.#bin = bin;
  }

  /** On the volume as this engine has it mounted. */
  static async on(engine: DockerEngine): Promise<Postgres> {
    const version = existsSync(programsDir) ? readdirSync(programsDir).sort().at(-1) : undefined;
    if (version === undefined)
      throw new Error('there is no PostgreSQL: apt-get install postgresql');
    const mountpoint = await engine.must('volume', 'inspect', '-f', '{{.Mountpoint}}', volume);
    // the agent's folder is root's alone
    const dir = mkdtempSync(join(tmpdir(), 'stor-accept-pg-'));
    chmodSync(dir, 0o777);
    mkdirSync(join(dir, 'data'));
    await mustRun('mount', ['--bind', mountpoint, join(dir, 'data')]);
    return new Postgres(dir, join(programsDir, version, 'bin'));
  }

  async init(): Promise<void> {
    mkdirSync(this.#data);
    await mustRun('chown', ['postgres:', this.#data]);
    await this.must('initdb', '-D', this.#data, '-A', 'trust', '--no-sync');
    await mustRun('sync', ['-f', this.#data]);
  }

  /** With the recovery that is needed. */
  async start(): Promise<void> {
    const options = `-c listen_addresses= -c unix_socket_directories=${this.#dir}`;
    const log = join(this.#dir, 'log');
    await this.must(
      'pg_ctl',
      '-D',
      this.#data,
      '-w',
      '-t',
      '120',
      '-l',
      log,
      '-o',
      options,
      'start',
    );
  }

  /** As a crash: nothing is written any more. */
  async crash(): Promise<void> {
    await this.run('pg_ctl', '-D', this.#data, '-w', '-m', 'immediate', 'stop');
  }

  query(sql: string): Promise<string> {
    return this.must('psql', '-h', this.#dir, '-d', 'postgres', '-Atqc', sql);
  }

  pgbench(...args: string[]): Promise<CommandResult> {
    return this.run('pgbench', '-h', this.#dir, ...args, 'postgres');
  }

  async close(): Promise<void> {
    await this.crash();
    await runCommand('umount', ['-l', join(this.#dir, 'data')]);
    rmSync(this.#dir, { recursive: true, force: true });
  }

  async must(program: string, ...args: string[]): Promise<string> {
    const result = await this.run(program, ...args);
    if (result.code !== 0) throw new Error(`${result.command}: ${result.stdout}${result.stderr}`);
    return result.stdout.trim();
  }

  run(program: string, ...args: string[]): Promise<CommandResult> {
    return runCommand(
      'setpriv',
      [
        ...['--reuid=postgres', '--regid=postgres', '--clear-groups', '--reset-env'],
        ...[join(this.#bin, program), ...args],
      ],
      { cwd: this.#dir, timeoutMs: 240_000 },
    );
  }

  get #data(): string {
    return join(this.#dir, 'data/pg');
  }
}

async function keeper(engine: DockerEngine): Promise<void> {
  await engine.must(
    ...['run', '-d', '--name', 'keeper', '--network', 'none', '--volume-driver', 'stor'],
    ...['-v', `${volume}:/data`, 'bb', 'sh', '-c', 'sleep 1000000'],
  );
}

/** Every transaction of pgbench adds a line to the history, and one sum to three tables. */
async function checked(postgres: Postgres): Promise<{ transactions: number; isWhole: boolean }> {
  const sums = await postgres.query(
    'select (select sum(delta) from pgbench_history), (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches), (select sum(tbalance) from pgbench_tellers)',
  );
  const transactions = Number(await postgres.query('select count(*) from pgbench_history'));
  return { transactions, isWhole: new Set(sums.split('|')).size === 1 };
}

/**
 * A replica's node is killed under load, then the primary's; after that the database crashes, and starts on
 * the other host. Nothing that was committed may be missing.
 */
export async function postgres(stage: DockerStage, report: AcceptReport): Promise<void> {
  const [one, two] = stage.engines;
  const { cluster } = stage;
  const create = ['volume', 'create', '-d', 'stor', '-o', 'size=1GiB', '-o', 'replicas=3'];
  await one.must(...create, volume);
  await keeper(one);
  const first = await Postgres.on(one);
  let committed = 0;
  try {
    await first.init();
    await first.start();
    const filled = await first.pgbench('-i', '-q', '-s', '2');
    if (filled.code !== 0) throw new Error(filled.stderr);
    const load = first.pgbench('-n', '-c', '4', '-j', '2', '-T', String(loadSeconds));
    await delay(5_000);
    await cluster.agent(2).kill9();
    await delay(10_000);
    cluster.agent(2).start();
    await cluster.agent(2).waitReady();
    await cluster.waitHealth(volume, 'healthy');
    const primary = await cluster.primary(volume);
    report.add('its host is the primary', `n${(primary ?? -1) + 1}`, 'n1', primary === 0);
    const killedMs = performance.now();
    const before = Number(await first.query('select count(*) from pgbench_history'));
    await cluster.agent(0).kill9();
    while (Number(await first.query('select count(*) from pgbench_history')) <= before + 4) {
      await delay(100);
    }
    const pauseMs = performance.now() - killedMs;
    report.add(
      'it commits again after the death of the primary',
      seconds(pauseMs),
      'under 30 s',
      pauseMs < 30_000,
    );
    const { code, stdout, stderr } = await load;
    committed = Number(/actually processed: (\d+)/.exec(stdout)?.[1] ?? NaN);
    if (code !== 0) process.stderr.write(stdout + stderr);
    report.add(
      'pgbench under both deaths',
      code === 0 ? 'no error' : 'failed',
      'no error',
      code === 0,
    );
    const now = await checked(first);
    const isSame = now.transactions === committed && now.isWhole;
    report.add('transactions in the tables', `${now.transactions}`, `${committed}`, isSame);
    await first.crash();
  } finally {
    await first.close();
  }
  cluster.agent(0).start();
  await cluster.agent(0).waitReady();
  await one.must('rm', '-f', 'keeper');
  await keeper(two);
  const second = await Postgres.on(two);
  try {
    await second.start();
    const now = await checked(second);
    const isSame = now.transactions === committed && now.isWhole;
    report.add('after a crash, on the other host', `${now.transactions}`, `${committed}`, isSame);
  } finally {
    await second.close();
    await two.must('rm', '-f', 'keeper');
  }
}
