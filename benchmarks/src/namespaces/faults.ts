import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { compiledProgram } from '../harness/checkout.ts';
import type { TestCluster } from '../harness/test-cluster.ts';
import type { NamespaceNetwork } from './network.ts';
import { addRules, type PacketRule } from './packet-rules.ts';

/** What may happen to a node; only `kill-all` happens to more than one at a time. */
export const faultKinds = [
  // the process is killed with -9 and started again
  'kill',
  // every agent of the cluster is killed with -9 at once and started again
  'kill-all',
  // SIGTERM and a start: the orderly form
  'restart',
  // SIGSTOP and SIGCONT: connections stay, nothing is answered
  'pause',
  // the cable is cut and the process killed: the whole node is gone
  'node-death',
  // the cable is cut at the switch
  'cable',
  // packets of everybody are dropped, in both directions
  'cut',
  // packets of the other nodes are dropped, clients reach the node
  'cut-from-nodes',
  // what the other nodes send is dropped
  'deaf',
  // what the node sends to the others is dropped
  'mute',
  // only one other node and this one do not hear each other
  'pair',
  // each packet from another node is lost with a probability of 0.3
  'loss',
  // everything the other nodes exchange with this one on connections to it comes later
  'slow',
] as const;
export type FaultKind = (typeof faultKinds)[number];

export interface Fault {
  kind: FaultKind;
  /** index of the node that suffers */
  node: number;
  /** the other one, for `pair` */
  other: number;
  /** for `slow` (ms) */
  delayMs: number;
}

/** Undoes the fault; for a killed agent it resolves when the agent serves again. */
export type EndFault = () => Promise<void>;

/** An orderly stop takes as long as attachments need to be given back (ms). */
const stopGraceMs = 30_000;
/** The delay relays listen here, inside the node's namespace. */
const relayPortOffset = 10_000;
/** Connections of before are reset for so long, so that they come again through the relay (ms). */
const resetMs = 300;

/** Lets a fault begin and returns how it ends. */
export async function beginFault(
  cluster: TestCluster,
  network: NamespaceNetwork,
  fault: Fault,
): Promise<EndFault> {
  const agent = cluster.agent(fault.node);
  const start = async (): Promise<void> => {
    agent.start();
    await agent.waitReady();
  };
  switch (fault.kind) {
    case 'kill':
      await agent.kill9();
      return start;
    case 'kill-all':
      await cluster.kill9All();
      return () => cluster.start();
    case 'restart':
      await agent.stop(stopGraceMs);
      return start;
    case 'pause':
      agent.pause();
      return () => Promise.resolve(agent.resume());
    case 'node-death':
      await Promise.all([agent.kill9(), network.setCable(fault.node, 'down')]);
      return async () => {
        await network.setCable(fault.node, 'up');
        await start();
      };
    case 'cable':
      await network.setCable(fault.node, 'down');
      return () => network.setCable(fault.node, 'up');
    case 'slow':
      return beginSlowness(cluster, network, fault);
    default:
      return addRules(network.node(fault.node).name, rulesOf(network, fault));
  }
}

function rulesOf(network: NamespaceNetwork, fault: Fault): PacketRule[] {
  const others = network.nodes.filter((_, index) => index !== fault.node);
  const fromNodes = others.map(({ address }) => ['INPUT', '-s', address, '-j', 'DROP']);
  const toNodes = others.map(({ address }) => ['OUTPUT', '-d', address, '-j', 'DROP']);
  switch (fault.kind) {
    case 'cut':
      return [
        ['INPUT', '-s', network.range, '-j', 'DROP'],
        ['OUTPUT', '-d', network.range, '-j', 'DROP'],
      ];
    case 'cut-from-nodes':
      return [...fromNodes, ...toNodes];
    case 'deaf':
      return fromNodes;
    case 'mute':
      return toNodes;
    case 'pair': {
      const { address } = network.node(fault.other);
      return [
        ['INPUT', '-s', address, '-j', 'DROP'],
        ['OUTPUT', '-d', address, '-j', 'DROP'],
      ];
    }
    case 'loss': {
      const chance = ['-m', 'statistic', '--mode', 'random', '--probability', '0.3'];
      return others.map(({ address }) => ['INPUT', '-s', address, ...chance, '-j', 'DROP']);
    }
    default:
      throw new Error(`${fault.kind} is not made of packet rules`);
  }
}

/**
 * Leads new connections from other nodes to this one through relays, and resets the connections of
 * before so that they are made anew. Ending the relays resets them once more.
 */
async function beginSlowness(
  cluster: TestCluster,
  network: NamespaceNetwork,
  fault: Fault,
): Promise<EndFault> {
  const { place } = cluster.agent(fault.node);
  const { name: netns, address } = network.node(fault.node);
  const ports = [place.apiPort, place.apiPort + 2];
  const others = network.nodes.filter((_, index) => index !== fault.node);
  const relays = ports.map((port) =>
    spawn(
      'ip',
      [
        ...['netns', 'exec', netns, process.execPath],
        compiledProgram('namespaces/delay-relay.js'),
        ...['--listen', String(port + relayPortOffset), '--host', address],
        ...['--port', String(port), '--delay-ms', String(fault.delayMs)],
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    ),
  );
  await Promise.all(relays.map((relay) => once(relay.stdout, 'data')));
  const matches = ports.flatMap((port) =>
    others.map((other) => ['-s', other.address, '-p', 'tcp', '--dport', String(port)]),
  );
  const removeRedirect = await addRules(
    netns,
    matches.map((match) => [
      ...['PREROUTING', ...match, '-j', 'REDIRECT'],
      ...['--to-ports', String(Number(match.at(-1)) + relayPortOffset)],
    ]),
    'nat',
  );
  const removeReset = await addRules(
    netns,
    matches.map((match) => ['INPUT', ...match, '-j', 'REJECT', '--reject-with', 'tcp-reset']),
  );
  await delay(resetMs);
  await removeReset();
  return async () => {
    await removeRedirect();
    for (const relay of relays) {
      relay.kill('SIGKILL');
      if (relay.exitCode === null && relay.signalCode === null) await once(relay, 'exit');
    }
  };
}
