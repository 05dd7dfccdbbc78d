import { join } from 'node:path';
import type { TestCluster } from '../harness/test-cluster.ts';
import type { BenchWorkload } from '../measure/workloads.ts';
import type { BlockServer } from '../servers/block-server.ts';
import { startNbdkit } from '../servers/nbdkit.ts';
import { startPeer, type PeerName } from '../servers/peer.ts';
import { QemuNbd, type QemuAio } from '../servers/qemu-nbd.ts';
import { startQemuQuorum, type QuorumReads } from '../servers/qemu-quorum.ts';
import { openRawFile } from '../servers/raw-file.ts';
import { createStorVolume } from '../servers/stor-volume.ts';

/** What a system finds when it is started. */
export interface MatrixStage {
  /** a folder on the file system that is measured */
  dir: string;
  sizeBytes: number;
  /** Fills a file as every system is filled, before a server opens it. */
  fillFile: (path: string) => Promise<void>;
  /** three agents, started by the first who asks */
  cluster: () => Promise<TestCluster>;
}

export interface StartedSystem extends BlockServer {
  /** it was filled while it was started: nothing is left to fill through its front */
  isFilled?: boolean;
  /** size of the requests that fill it, where it has to be another than everybody's */
  prefill?: string;
  close?: () => Promise<void>;
}

/** One column of the matrix. */
export interface BenchSystem {
  name: string;
  copies: number;
  /** what it means when a write is answered, and a FLUSH */
  acknowledges: string;
  /** measured only when it is named: another form of a system that is there */
  isVariant?: boolean;
  /** not every system has every workload */
  skips?: (workload: BenchWorkload) => boolean;
  start: (stage: MatrixStage) => Promise<StartedSystem>;
}

const pageCache = (copies: string): string =>
  `a write is in the page cache of ${copies}; a FLUSH makes it durable there`;

function stor(replicas: number): BenchSystem {
  return {
    name: `stor-${replicas}`,
    copies: replicas,
    acknowledges: pageCache(replicas === 1 ? 'its one node' : `all ${replicas} nodes`),
    start: async (stage) =>
      createStorVolume(await stage.cluster(), `bench-${replicas}`, stage.sizeBytes, replicas),
  };
}

/** Far above what any machine gives: what is measured is the work of keeping them. */
const looseLimits = 'iops=10000000,bps=100GiB,weight=100';

/** A volume with limits, so that every request goes through the scheduler of its lane. */
function storWithQos(replicas: number): BenchSystem {
  const name = `stor-${replicas}-qos`;
  return {
    ...stor(replicas),
    ...{ name, isVariant: true },
    start: async (stage) => {
      const cluster = await stage.cluster();
      const volume = `bench-${replicas}-qos`;
      const more = ['--qos', looseLimits];
      const server = await createStorVolume(cluster, volume, stage.sizeBytes, replicas, more);
      return { ...server, name };
    },
  };
}

function qemu(aio: QemuAio): BenchSystem {
  const name = aio === 'threads' ? 'qemu-nbd' : 'qemu-nbd-io_uring';
  return {
    name,
    copies: 1,
    acknowledges: pageCache('the host'),
    start: async ({ dir, sizeBytes, fillFile }) => {
      const path = join(dir, `${name}.raw`);
      await fillFile(path);
      return filled(await QemuNbd.start(dir, sizeBytes, { name, aio, path }));
    },
  };
}

function quorum(reads: QuorumReads): BenchSystem {
  const name = reads === 'quorum' ? 'qemu-quorum' : 'qemu-quorum-fifo';
  return {
    name,
    copies: 3,
    acknowledges: `${pageCache('two of three servers')}; a copy that failed stays stale unnoticed`,
    // writes go to all copies in either form
    ...(reads === 'fifo' ? { skips: ({ kind }) => kind === 'write' } : {}),
    start: async ({ dir, sizeBytes, fillFile }) => {
      const paths = [0, 1, 2].map((index) => join(dir, `${name}-${index}.raw`));
      for (const path of paths) await fillFile(path);
      return filled(await startQemuQuorum(dir, sizeBytes, name, reads, paths));
    },
  };
}

const nbdkit: BenchSystem = {
  name: 'nbdkit',
  copies: 1,
  acknowledges: pageCache('the host'),
  start: async ({ dir, sizeBytes, fillFile }) => {
    const path = join(dir, 'nbdkit.raw');
    await fillFile(path);
    return filled(await startNbdkit(dir, sizeBytes, path));
  },
};

function peer(
  name: PeerName,
  rest: Omit<BenchSystem, 'name' | 'start' | 'copies'>,
  prefill?: string,
) {
  return {
    ...{ name, copies: 3, ...rest },
    start: async ({ dir, sizeBytes }: MatrixStage): Promise<StartedSystem> =>
      Object.assign(
        await startPeer(name, dir, sizeBytes),
        prefill === undefined ? {} : { prefill },
      ),
  };
}

const gluster = peer('gluster', {
  acknowledges: `${pageCache('all three bricks')}; its caches and early answers are off. Its client (fio) sends every write three times`,
});

/** Its OSDs do not use the page cache, so it does not matter to them how large the first writes were. */
const ceph = peer(
  'ceph',
  {
    acknowledges:
      'a write is durable in the log of all three OSDs; a FLUSH has nothing to do. Its client library runs in fio',
  },
  '1m',
);

function rawFile(ioengine: 'psync' | 'io_uring'): BenchSystem {
  const name = `file-${ioengine}`;
  return {
    name,
    copies: 1,
    acknowledges: `${pageCache('the host')}; no server, no socket: the ceiling of this file system`,
    ...(ioengine === 'psync' ? { skips: ({ options }) => options['iodepth'] !== '1' } : {}),
    start: async ({ dir, sizeBytes, fillFile }) => {
      await fillFile(join(dir, `${name}.raw`));
      return filled(openRawFile(dir, sizeBytes, name, ioengine));
    },
  };
}

/** `close` and `pids` may belong to a class, so the object itself is kept. */
function filled(server: BlockServer & { close: () => Promise<void> }): StartedSystem {
  return Object.assign(server, { isFilled: true });
}

export const benchSystems: readonly BenchSystem[] = [
  stor(1),
  stor(2),
  stor(3),
  storWithQos(1),
  storWithQos(3),
  qemu('threads'),
  qemu('io_uring'),
  nbdkit,
  quorum('quorum'),
  quorum('fifo'),
  gluster,
  ceph,
  rawFile('psync'),
  rawFile('io_uring'),
];

/** Systems by name; throws with the names that there are. */
export function systemsNamed(names: readonly string[]): BenchSystem[] {
  return names.map((name) => {
    const found = benchSystems.find((system) => system.name === name);
    if (found) return found;
    const known = benchSystems.map((system) => system.name).join(', ');
    throw new Error(`there is no system ${name}; there are: ${known}`);
  });
}
