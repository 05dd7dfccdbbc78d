import { makeId } from '@stor/protocol';

/** Ports of node N (from 1) begin at base + 10 N: API +0, HTTP +1, peers +2, NBD from +3. */
export const defaultBasePort = 17_100;
const portsPerNode = 10;

export interface CheckoutNode {
  id: string;
  name: string;
  api: number;
  http: number;
  peers: number;
  nbd: number[];
}

/** What `.stor/cluster.yaml` holds. storctl reads `endpoints` of it. */
export interface CheckoutLayout {
  clusterId: string;
  clusterName: string;
  host: string;
  endpoints: string[];
  nodes: CheckoutNode[];
}

/** A new cluster of `nodes` nodes on loopback. `randomBytes` gives the ids their chance. */
export function planLayout(options: {
  nodes: number;
  basePort: number;
  randomBytes: (length: number) => Uint8Array;
}): CheckoutLayout {
  const host = '127.0.0.1';
  const nodes = Array.from({ length: options.nodes }, (_, index) => {
    const base = options.basePort + portsPerNode * (index + 1);
    return {
      id: makeId('n', options.randomBytes(8)),
      name: `n${index + 1}`,
      api: base,
      http: base + 1,
      peers: base + 2,
      nbd: [base + 3],
    };
  });
  return {
    clusterId: makeId('c', options.randomBytes(8)),
    clusterName: 'checkout',
    host,
    endpoints: nodes.map((node) => `${host}:${node.api}`),
    nodes,
  };
}

/** The agent's config.yaml as an object. Paths are absolute. */
export function agentConfig(
  layout: CheckoutLayout,
  node: CheckoutNode,
  paths: AgentPaths,
): Record<string, unknown> {
  return {
    clusterId: layout.clusterId,
    clusterName: layout.clusterName,
    nodeId: node.id,
    nodeName: node.name,
    ...paths,
    listen: {
      host: layout.host,
      api: node.api,
      http: node.http,
      peers: node.peers,
      nbd: node.nbd,
    },
    members: layout.nodes.map(({ id, name, api }) => ({ id, name, api: `${layout.host}:${api}` })),
    logLevel: 'info',
  };
}

export interface AgentPaths {
  dataDir: string;
  nbdUnixDir: string;
  pidFile: string;
}

/** Every port of a node with the word for it. */
export function portsOf(node: CheckoutNode): { port: number; use: string }[] {
  return [
    { port: node.api, use: 'API' },
    { port: node.http, use: 'HTTP' },
    { port: node.peers, use: 'replication' },
    ...node.nbd.map((port) => ({ port, use: 'NBD' })),
  ];
}
