import { once } from 'node:events';
import { createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { StorError } from '@stor/protocol';
import {
  findAgent,
  logTail,
  startAgent,
  type RunningAgent,
  type StartedAgent,
} from './agent-process.ts';
import { nodeFiles, openLayout, prepareNode, type NodeFiles } from './checkout-files.ts';
import { portsOf, type CheckoutLayout, type CheckoutNode } from './checkout-layout.ts';

/** Time for all agents to become ready: journal replay and a Raft election take seconds. */
const readyTimeoutMs = 60_000;
/** An agent that was killed a moment ago may not have let go of its ports yet (ms). */
const portsFreeMs = 2_000;
const pollMs = 50;
const probeTimeoutMs = 1_000;

/**
 * The cluster of a checkout: real agents on loopback, one process per node, with everything under
 * one folder (`.stor`). Agents outlive the process that starts them.
 */
export class CheckoutCluster {
  readonly stateDir: string;
  readonly layout: CheckoutLayout;
  readonly #agentMain: string;

  private constructor(stateDir: string, layout: CheckoutLayout, agentMain: string) {
    this.stateDir = stateDir;
    this.layout = layout;
    this.#agentMain = agentMain;
  }

  /** Opens the cluster in `stateDir` and makes it (files only) when it is not there. */
  static create(options: {
    stateDir: string;
    /** the agent's compiled main.js */
    agentMain: string;
    nodes: number;
    basePort: number;
  }): CheckoutCluster {
    const layout = openLayout(options.stateDir, options);
    for (const node of layout.nodes) prepareNode(options.stateDir, layout, node);
    return new CheckoutCluster(options.stateDir, layout, options.agentMain);
  }

  files(node: CheckoutNode): NodeFiles {
    return nodeFiles(this.stateDir, node.name);
  }

  running(node: CheckoutNode): RunningAgent | null {
    const { pidFile, configFile } = this.files(node);
    return findAgent(pidFile, configFile);
  }

  /**
   * Starts what does not run and waits until every node is ready. Returns the names of the started
   * ones. IN_USE when a port is taken, UNAVAILABLE when an agent ends or is not ready in time; both
   * say which and show its log. Agents that did start stay.
   */
  async start(): Promise<string[]> {
    const down = this.layout.nodes.filter((node) => this.running(node) === null);
    for (const node of down) await this.#checkPorts(node);
    const started = new Map<string, StartedAgent>();
    for (const node of down) {
      const { configFile, logFile, dir } = this.files(node);
      const agentMain = this.#agentMain;
      started.set(node.name, startAgent({ agentMain, configFile, logFile, cwd: dir }));
    }
    const deadline = performance.now() + readyTimeoutMs;
    await Promise.all(
      this.layout.nodes.map((node) => this.#waitReady(node, started.get(node.name), deadline)),
    );
    return down.map((node) => node.name);
  }

  async #checkPorts(node: CheckoutNode): Promise<void> {
    const deadline = performance.now() + portsFreeMs;
    for (const { port, use } of portsOf(node)) {
      let isTaken = await portIsTaken(this.layout.host, port);
      while (isTaken && performance.now() < deadline) {
        await delay(pollMs);
        isTaken = await portIsTaken(this.layout.host, port);
      }
      if (!isTaken) continue;
      throw new StorError(
        'IN_USE',
        `port ${port} (${use} of ${node.name}) is in use by another process: stop that process (find it with "ss -ltnp sport = :${port}"), or make the cluster on other ports: "npm run down -- --purge" (removes its data), then "npm run up -- --base-port 27100"`,
      );
    }
  }

  async #waitReady(
    node: CheckoutNode,
    started: StartedAgent | undefined,
    deadline: number,
  ): Promise<void> {
    const { logFile } = this.files(node);
    const child = started?.child;
    let reason = 'it does not answer';
    for (;;) {
      const exited = child
        ? child.exitCode !== null || child.signalCode !== null
        : this.running(node) === null;
      const tail = () => {
        const text = logTail(logFile, started?.logStart ?? 0);
        return text === '' ? ` (its log ${logFile} is empty)` : `; the end of ${logFile}:\n${text}`;
      };
      if (exited) {
        const how =
          child?.signalCode ?? (child ? `exit code ${child.exitCode}` : 'it was running before');
        throw new StorError('UNAVAILABLE', `agent ${node.name} ended (${how})${tail()}`);
      }
      const answer = await probe(`http://${this.layout.host}:${node.http}/readyz`);
      if (answer.ready) return;
      reason = answer.reason;
      if (performance.now() > deadline) {
        throw new StorError(
          'UNAVAILABLE',
          `agent ${node.name} was not ready within ${readyTimeoutMs / 1000} s: ${reason}${tail()}`,
        );
      }
      await delay(pollMs);
    }
  }
}

async function probe(url: string): Promise<{ ready: boolean; reason: string }> {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(probeTimeoutMs) });
    const reason = (await response.text()).trim();
    return { ready: response.ok, reason: reason || `HTTP status ${response.status}` };
  } catch (error) {
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
    return { ready: false, reason: cause instanceof Error ? cause.message : String(cause) };
  }
}

async function portIsTaken(host: string, port: number): Promise<boolean> {
  const server = createServer();
  try {
    server.listen({ host, port });
    await once(server, 'listening');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE') return true;
    throw error;
  }
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return false;
}
