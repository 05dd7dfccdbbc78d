import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, existsSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describeResult, mustRun, runCommand, type CommandResult } from './run-command.ts';
import { waitFor } from './wait-for.ts';

/** User of Debian's package: PostgreSQL refuses to run as root. */
const systemUser = 'postgres';
const debianFolder = '/usr/lib/postgresql';
/** The server's parts that are used, and where Debian has them. */
const neededPrograms = ['initdb', 'postgres', 'psql', 'pgbench', 'pg_amcheck', 'pg_checksums'];

/** What a server does other than by default: checkpoints come often, so that pages are written beside the log. */
const settings = {
  listen_addresses: '',
  shared_buffers: '64MB',
  checkpoint_timeout: '30s',
  max_wal_size: '256MB',
  log_checkpoints: 'on',
};

/** Folder of the newest PostgreSQL that Debian has installed here; a text says what is missing and why. */
export function findPostgres(): { programs: string } | { missing: string } {
  const versions = existsSync(debianFolder) ? readdirSync(debianFolder) : [];
  const newest = versions.sort((one, two) => Number(two) - Number(one))[0] ?? '';
  const programs = join(debianFolder, newest, 'bin');
  const missing = neededPrograms.filter((name) => !existsSync(join(programs, name)));
  if (missing.length === 0) return { programs };
  return {
    missing: `${missing.join(', ')} of ${debianFolder}: apt-get install postgresql postgresql-contrib`,
  };
}

export interface PostgresPlaces {
  /** see `findPostgres` */
  programs: string;
  /** of the database; the system user's */
  dataDir: string;
  /** for its UNIX socket, outside of the volume; the system user's */
  socketDir: string;
  logPath: string;
}

/** One PostgreSQL of Debian's, with checksums of its pages, on a UNIX socket only. Needs root. */
export class PostgresServer {
  readonly places: PostgresPlaces;
  #child: ChildProcess | null = null;
  #exited: Promise<void> = Promise.resolve();

  constructor(places: PostgresPlaces) {
    this.places = places;
  }

  /** Gives a folder to the system user. */
  static async own(dir: string): Promise<void> {
    await mustRun('install', ['-d', '-m', '0700', '-o', systemUser, '-g', systemUser, dir]);
  }

  get pid(): number | null {
    return this.#child?.pid ?? null;
  }

  async init(): Promise<void> {
    const auth = ['--auth', 'trust', '--username', systemUser];
    await this.must('initdb', '-D', this.places.dataDir, '--data-checksums', ...auth);
  }

  /** Starts it and waits until it takes statements: after a crash that is when its log has been played. */
  async start(): Promise<void> {
    const log = openSync(this.places.logPath, 'a');
    const all = { ...settings, unix_socket_directories: this.places.socketDir };
    const options = Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
    const [program, args] = this.command('postgres', ['-D', this.places.dataDir, ...options]);
    const child = spawn(program, args, { stdio: ['ignore', log, log] });
    closeSync(log);
    this.#child = child;
    this.#exited = new Promise((resolve) => {
      const over = (): void => {
        if (this.#child === child) this.#child = null;
        resolve();
      };
      child.once('exit', over);
      child.once('error', over);
    });
    const state = await waitFor(
      'PostgreSQL to take statements',
      async () => {
        if (!this.#child) return 'ended';
        return (await this.run('psql', ...this.session, '-c', 'SELECT 1')).code === 0
          ? 'ready'
          : null;
      },
      { deadlineMs: 120_000, intervalMs: 200 },
    );
    if (state === 'ended') throw new Error(`PostgreSQL ended at start:\n${this.logTail()}`);
  }

  /** An orderly end; backends are told to leave. */
  async stop(): Promise<void> {
    this.#child?.kill('SIGINT');
    await this.#exited;
  }

  /** All its processes at once, as the death of its host. */
  async kill9(): Promise<void> {
    const { pid } = this;
    if (pid === null) return;
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
    for (const each of [pid, ...children.split(' ').filter(Boolean).map(Number)]) {
      try {
        process.kill(each, 'SIGKILL');
      } catch {
        // it is gone
      }
    }
    await this.#exited;
  }

  /** Arguments of psql and its like: how to get there. */
  get session(): string[] {
    return ['-h', this.places.socketDir, '-U', systemUser, '-d', systemUser];
  }

  /** Lines of the answer, fields parted by `|`. */
  async sql(statement: string): Promise<string[]> {
    const args = [...this.session, '-X', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-c', statement];
    return (await this.must('psql', ...args)).split('\n').filter(Boolean);
  }

  /** A program of the package, as the system user. */
  run(name: string, ...args: string[]): Promise<CommandResult> {
    const [program, all] = this.command(name, args);
    return runCommand(program, all, { cwd: '/', timeoutMs: 600_000 });
  }

  async must(name: string, ...args: string[]): Promise<string> {
    const result = await this.run(name, ...args);
    if (result.code !== 0) throw new Error(`${describeResult(result)}\n${this.logTail()}`);
    return result.stdout;
  }

  /** What to spawn; setpriv becomes the program, so the process is known by its number. */
  command(name: string, args: readonly string[]): [string, string[]] {
    const user = ['--reuid', systemUser, '--regid', systemUser, '--init-groups'];
    return ['setpriv', [...user, join(this.places.programs, name), ...args]];
  }

  logTail(bytes = 4_000): string {
    const { logPath } = this.places;
    const log = existsSync(logPath) ? readFileSync(logPath, 'utf8') : '';
    return `--- end of ${logPath} ---\n${log.slice(-bytes)}`;
  }
}
