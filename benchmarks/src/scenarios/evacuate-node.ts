import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { NodePlan } from '@stor/protocol';
import { runFio } from '../fio/fio.ts';
import { checkoutRoot } from '../harness/checkout.ts';
import type { TestCluster } from '../harness/test-cluster.ts';

const mib = 1024 * 1024;

export const evacuatedVolume = { name: 'moving', sizeBytes: 128 * mib, replicas: 3 };

export interface EvacuationRun {
  plan: NodePlan;
  /** 0: no error, and everything that was read back was what had been written */
  fioError: number;
  fioOutput: string;
  fioWrites: number;
  /** what `storctl node evacuate` said */
  said: string;
  /** committed changes of the volume's record since it was whole, and the smallest set among them */
  changes: number;
  lowestInSync: number;
  /** nodes of the replicas at the end, and of the primary */
  nodes: string[];
  primary: string;
}

/**
 * Evacuates and drains the node that is primary, of a cluster of at least four, while fio writes and
 * verifies. The in-sync counts are of the committed history. Leaves the cluster stopped.
 */
export async function evacuateUnderFio(
  cluster: TestCluster,
  options: { seconds: number; dir: string },
): Promise<EvacuationRun> {
  const { name, sizeBytes, replicas } = evacuatedVolume;
  const create = ['--size', String(sizeBytes), '--replicas', String(replicas)];
  await cluster.must('volume', 'create', name, ...create);
  const node = (await cluster.inspect(name)).status.replicas[0]?.node ?? '';
  const other = cluster.agents.find(({ place }) => place.name !== node);
  if (!other) throw new Error('no other node');
  await cluster.must('volume', 'attach', name, '--node', node);
  const fio = runFio({
    uri: cluster.tcpUri(cluster.indexOfNode(node), name),
    dir: options.dir,
    timeoutMs: (options.seconds + 60) * 1000,
    options: {
      rw: 'randwrite',
      bs: '4k',
      iodepth: '16',
      size: String(sizeBytes),
      io_size: String(1_500 * options.seconds * 4096),
      rate_iops: '1500',
      verify: 'crc32c',
      randseed: '5',
    },
  });
  // it runs beside what follows; its outcome is looked at in the end
  fio.catch(() => {});
  const planned = await cluster.must('node', 'evacuate', node, '--plan', '-o', 'json');
  const said = await cluster.must('node', 'evacuate', node);
  await cluster.must('node', 'drain', node);
  const result = await fio;
  const { status } = await cluster.inspect(name);
  await cluster.stop();
  const history = await committedHistory(other.dataDir, name);
  const whole = history.findIndex(({ inSync }) => inSync >= replicas);
  const since = history.slice(whole);
  return {
    plan: JSON.parse(planned) as NodePlan,
    fioError: result.error,
    fioOutput: result.command.stderr,
    fioWrites: result.write.ios,
    said,
    changes: since.length,
    lowestInSync: Math.min(...since.map(({ inSync }) => inSync)),
    nodes: status.replicas.map((replica) => replica.node).sort(),
    primary: status.primary?.node ?? '',
  };
}

type History = (dataDir: string, volume: string) => Promise<{ revision: number; inSync: number }[]>;

/** The agents run compiled, and so does what reads their logs: benchmarks know nothing of its package. */
async function committedHistory(...args: Parameters<History>): ReturnType<History> {
  const path = join(checkoutRoot(), 'packages/control-plane/dist/src/testing/committed-history.js');
  const module = (await import(pathToFileURL(path).href)) as { committedHistory: History };
  return module.committedHistory(...args);
}
