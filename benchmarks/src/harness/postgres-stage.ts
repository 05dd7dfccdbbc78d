import { spawn, type ChildProcess } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CommitLedger } from './commit-ledger.ts';
import { PostgresServer } from './postgres-server.ts';
import { clearFolder, mountsBelow, processesOf } from './shared-folder.ts';
import { runCommand } from './run-command.ts';
import { TestCluster } from './test-cluster.ts';

export const postgresVolume = 'pg';

/**
 * A cluster of real agents, a volume of three replicas that is mounted on a host which has none of them, and
 * PostgreSQL there with two loads: pgbench, and clients that note what was committed. Needs root.
 */
export class PostgresStage {
  readonly cluster: TestCluster;
  readonly ledger: CommitLedger;
  readonly server: PostgresServer;
  /** mounts, sockets, log: outside of the volume, and open to the system user */
  readonly #dir: string;
  /** index of the node that has the mount */
  host = 0;
  #bench: ChildProcess | null = null;
  #mounted = 0;

  private constructor(cluster: TestCluster, dir: string, programs: string, writers: number) {
    this.cluster = cluster;
    this.#dir = dir;
    const socketDir = join(dir, 'run');
    this.server = new PostgresServer({
      ...{ programs, socketDir, logPath: join(dir, 'postgres.log') },
      // a link to where it is mounted now
      dataDir: join(dir, 'now', 'data'),
    });
    this.ledger = new CommitLedger(this.server, writers);
  }

  static async create(programs: string, writers: number): Promise<PostgresStage> {
    const cluster = await TestCluster.create({ nodes: 4 });
    const dir = mkdtempSync(join(tmpdir(), 'stor-pg-'));
    chmodSync(dir, 0o755);
    return new PostgresStage(cluster, dir, programs, writers);
  }

  /** Cluster, volume, mount, database, tables. */
  async start(size: string, scale: number): Promise<void> {
    const { cluster, server, ledger } = this;
    await cluster.start();
    await cluster.waitFit();
    await cluster.must('volume', 'create', postgresVolume, '--size', size, '--replicas', '3');
    const replicas = await this.replicaNodes();
    this.host = cluster.agents.findIndex((_, index) => !replicas.includes(index));
    await PostgresServer.own(server.places.socketDir);
    const target = await this.mount(this.host);
    await PostgresServer.own(join(target, 'data'));
    await server.init();
    await server.start();
    await ledger.createTables();
    await server.must('pgbench', ...server.session, '-i', '-q', '-s', String(scale));
  }

  /** Indexes of the nodes that have a replica. */
  async replicaNodes(): Promise<number[]> {
    const { status } = await this.cluster.inspect(postgresVolume);
    return status.replicas.map(({ node }) => this.cluster.indexOfNode(node));
  }

  /** Mounts the volume on a node, where `now` leads from then on. */
  async mount(index: number): Promise<string> {
    const target = join(this.#dir, `mount-${++this.#mounted}`);
    mkdirSync(target);
    const node = this.cluster.agent(index).place.name;
    await this.cluster.must('volume', 'mount', postgresVolume, target, '--node', node);
    const now = join(this.#dir, 'now');
    rmSync(now, { force: true });
    await runCommand('ln', ['-s', target, now]);
    this.host = index;
    return target;
  }

  startLoad(clients: number): void {
    const { server } = this;
    const load = ['-n', '-c', String(clients), '-j', '2', '-T', '3600'];
    const [program, args] = server.command('pgbench', [...server.session, ...load]);
    this.#bench = spawn(program, args, { cwd: '/', stdio: 'ignore' });
    this.ledger.start();
  }

  async stopLoad(): Promise<void> {
    await this.ledger.stop();
    await this.#endBench();
  }

  /** The whole host at once: agent, device, database, and the clients beside it. */
  async killHost(): Promise<void> {
    const agent = this.cluster.agent(this.host);
    this.ledger.kill();
    for (const { pid } of processesOf(`${agent.place.dir}/`)) {
      if (pid !== agent.pid) process.kill(pid, 'SIGKILL');
    }
    await Promise.all([agent.kill9(), this.server.kill9(), this.#endBench()]);
    await this.ledger.stop();
    for (const target of mountsBelow(this.#dir)) await runCommand('umount', ['-l', target]);
  }

  async close(): Promise<void> {
    this.ledger.kill();
    await Promise.all([this.#endBench(), this.server.kill9(), this.ledger.stop()]);
    // while the cluster lives: a file system whose device waits for a node cannot be unmounted
    for (const target of mountsBelow(this.#dir)) await runCommand('umount', [target]);
    await this.cluster.kill9All();
    await clearFolder(this.cluster.dir);
    for (const target of mountsBelow(this.#dir)) await runCommand('umount', ['-l', target]);
    await this.cluster.close();
    rmSync(this.#dir, { recursive: true, force: true });
  }

  async #endBench(): Promise<void> {
    const bench = this.#bench;
    this.#bench = null;
    if (!bench || bench.exitCode !== null || bench.signalCode !== null) return;
    const ended = new Promise((resolve) => bench.once('exit', resolve));
    bench.kill('SIGKILL');
    await ended;
  }
}
