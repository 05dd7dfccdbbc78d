import { join } from 'node:path';
import { prefill, runFio } from '../../fio/fio.ts';
import { TestCluster } from '../../harness/test-cluster.ts';
import { waitFor } from '../../harness/wait-for.ts';
import { markUse, useBetween, type Use } from './thread-use.ts';

const MiB = 1024 * 1024;
/** Of each volume: it fits into the page cache, where the data path is the limit and not the disk. */
const volumeBytes = 256 * MiB;

export interface LaneClusterOptions {
  dir: string;
  nodes: number;
  /** of each node; the first is lane 0's, the second lane 1's and so on */
  disks: number;
  lanes: number;
  replicas: number;
}

export interface LaneFigures {
  iops: number;
  /** CPU of all agents for an I/O (us) */
  cpuUs: number;
  use: Use;
}

/** A cluster whose agents have several disks, with a volume on each of them, filled. */
export class LaneTestCluster {
  readonly cluster: TestCluster;
  readonly #dir: string;

  private constructor(cluster: TestCluster, dir: string) {
    this.cluster = cluster;
    this.#dir = dir;
  }

  static async start(options: LaneClusterOptions): Promise<LaneTestCluster> {
    const { nodes, disks, lanes, replicas } = options;
    const indexes = Array.from({ length: nodes }, (_, index) => index);
    const dir = join(options.dir, `lanes-${lanes}-${nodes}`);
    const cluster = await TestCluster.create({ dir, nodes, lanes, computeOnly: indexes });
    const own = new LaneTestCluster(cluster, options.dir);
    try {
      await cluster.start();
      for (let disk = 0; disk < disks; disk += 1) {
        for (const index of indexes) {
          const { name, dir: nodeDir } = cluster.agent(index).place;
          const path = join(nodeDir, `disk-${disk}`);
          await cluster.must('disk', 'add', name, path, '--tag', `d${disk}`);
        }
      }
      for (let disk = 0; disk < disks; disk += 1) await own.#create(disk, replicas);
      return own;
    } catch (error) {
      await own.close();
      throw error;
    }
  }

  async #create(disk: number, replicas: number): Promise<void> {
    const name = `v${disk}`;
    const size = `${volumeBytes / MiB}MiB`;
    await this.cluster.must(
      ...['volume', 'create', name, '--size', size, '--replicas', String(replicas)],
      ...['--disk-tag', `d${disk}`],
    );
    await waitFor(`volume ${name}`, async () => {
      const { status } = await this.cluster.inspect(name);
      return status.health === 'healthy' ? status : null;
    });
    await prefill(await this.uri(name), volumeBytes, '1m', this.#dir);
  }

  /** The UNIX socket of the lane that the cluster names, or of the next one. */
  async uri(name: string, crossing = false): Promise<string> {
    const { status } = await this.cluster.inspect(name);
    const port = Number(new URL(status.nbdUri).port);
    const index = this.cluster.agents.findIndex(({ place }) => {
      return port >= place.nbdPort && port < place.nbdPort + this.cluster.lanes;
    });
    const lane = port - this.cluster.agent(index).place.nbdPort;
    return this.cluster.unixUri(index, name, crossing ? (lane + 1) % this.cluster.lanes : lane);
  }

  /** fio on the first `count` volumes at once. */
  async measure(
    rw: string,
    count: number,
    options: { seconds: number; crossing?: boolean },
  ): Promise<LaneFigures> {
    const { seconds, crossing = false } = options;
    const names = Array.from({ length: count }, (_, disk) => `v${disk}`);
    const uris = await Promise.all(names.map((name) => this.uri(name, crossing)));
    const pids = this.cluster.agents.map(({ pid }) => pid);
    const fio = { rw, bs: '4k', iodepth: '32', time_based: '1', runtime: String(seconds) };
    const from = markUse(pids);
    const results = await Promise.all(
      uris.map((uri) =>
        runFio({ uri, dir: this.#dir, options: { ...fio, size: String(volumeBytes) } }),
      ),
    );
    const use = useBetween(from, markUse(pids));
    const failed = results.find(({ error }) => error !== 0);
    if (failed) throw new Error(`fio failed: ${failed.command.stderr}`);
    const sum = (of: (result: (typeof results)[0]) => number): number =>
      results.reduce((total, result) => total + of(result), 0);
    const ios = sum(({ read, write }) => read.ios + write.ios);
    return {
      iops: sum(({ read, write }) => read.iops + write.iops),
      cpuUs: (use.cores * use.elapsedMs * 1_000) / Math.max(1, ios),
      use,
    };
  }

  close(): Promise<void> {
    return this.cluster.close();
  }
}
