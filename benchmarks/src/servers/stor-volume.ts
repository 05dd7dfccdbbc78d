import type { TestCluster } from '../harness/test-cluster.ts';
import type { BlockServer } from './block-server.ts';

/**
 * A new volume of a running cluster, served over the UNIX socket of a node that has a replica of
 * it. The CPU time of all agents counts, idle ones too.
 */
export async function createStorVolume(
  cluster: TestCluster,
  volume: string,
  sizeBytes: number,
  replicas: number,
): Promise<BlockServer> {
  const size = String(sizeBytes);
  await cluster.must('volume', 'create', volume, '--size', size, '--replicas', String(replicas));
  const { status } = await cluster.inspect(volume);
  const node = status.replicas[0]?.node;
  if (node === undefined) throw new Error(`${volume} has no replica`);
  return {
    name: `stor-${replicas}`,
    uri: cluster.unixUri(cluster.indexOfNode(node), volume),
    pids: () => cluster.agents.map((agent) => agent.pid),
  };
}
