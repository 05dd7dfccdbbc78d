import { nbdTarget } from '../fio/fio.ts';
import type { TestCluster } from '../harness/test-cluster.ts';
import type { NbdServer } from './block-server.ts';

/**
 * A new volume of a running cluster, served over the UNIX socket of a node that has a replica of
 * it. The CPU time of all agents counts, idle ones too.
 */
export async function createStorVolume(
  cluster: TestCluster,
  volume: string,
  sizeBytes: number,
  replicas: number,
  more: readonly string[] = [],
): Promise<NbdServer> {
  const size = String(sizeBytes);
  const shape = ['--size', size, '--replicas', String(replicas), ...more];
  await cluster.must('volume', 'create', volume, ...shape);
  const { status } = await cluster.inspect(volume);
  const node = status.replicas[0]?.node;
  if (node === undefined) throw new Error(`${volume} has no replica`);
  const uri = cluster.unixUri(cluster.indexOfNode(node), volume);
  return {
    name: `stor-${replicas}`,
    uri,
    target: nbdTarget(uri),
    pids: () => cluster.agents.map((agent) => agent.pid),
  };
}
