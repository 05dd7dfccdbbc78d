import { hasCode, StorError } from '@stor/protocol';
import type { NodeId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import { foreignStorage } from '../core/foreign-storage.ts';
import { outOfServiceKey, outOfServiceValue, planNodeLoss } from '../core/node-loss.ts';
import type { WatchedNode } from '../core/node-loss.ts';
import type { CsiApi } from '../csi-api.ts';
import type { KubernetesClient, KubernetesNode } from './kubernetes-client.ts';

/** How often both sides are looked at, and how long one look may take (ms). */
const lookEveryMs = 5_000;
const lookLimitMs = 10_000;
/** How long both sides must agree that a node is lost (ms): a reboot by an operator is announced otherwise. */
export const defaultNodeLossWaitMs = 30_000;

export interface NodeLossOptions {
  api: Pick<CsiApi, 'getClusterStatus' | 'listNodes'>;
  kubernetes: KubernetesClient;
  /** of this agent: only that of the control plane's leader does anything */
  nodeId: NodeId;
  driverName: string;
  /** @default 30 s */
  waitMs?: number | undefined;
  clock: Clock;
  logger: Logger;
}

/**
 * Takes nodes that are lost out of service in Kubernetes, so that their pods begin elsewhere at once and not
 * after the minutes that Kubernetes waits; gives them back when they are well. A volume of Stor moves safely
 * whatever the lost node still does, as the next publication fences it (ADR 19); volumes of others may not, so
 * nodes that have such are left alone.
 */
export class NodeLossWatch {
  readonly #options: NodeLossOptions;
  /** since when a node has been seen down by both sides, by our clock (ms); only while we lead */
  readonly #downSinceMs = new Map<string, number>();
  /** what was said already */
  readonly #refusals = new Map<string, string>();
  readonly #closing = new AbortController();
  #cancel = (): void => {};
  #looking: Promise<void> = Promise.resolve();
  #trouble = '';

  constructor(options: NodeLossOptions) {
    this.#options = options;
  }

  /** Begins to look every few seconds. */
  start(): void {
    if (this.#closing.signal.aborted) return;
    this.#cancel = this.#options.clock.after(lookEveryMs, () => {
      this.#looking = this.#lookOnce().then(() => {
        this.start();
      });
    });
  }

  /** Waits for the look that is under way. Works twice. */
  async close(): Promise<void> {
    this.#closing.abort(new StorError('ABORTED', 'the agent is stopping'));
    this.#cancel();
    await this.#looking;
  }

  async #lookOnce(): Promise<void> {
    try {
      await this.look();
      this.#trouble = '';
    } catch (error) {
      const { message } = StorError.from(error);
      // each time the same would fill the log
      if (message !== this.#trouble && !this.#closing.signal.aborted) {
        this.#options.logger.warn({ error: message }, 'lost nodes are not looked for');
      }
      this.#trouble = message;
    }
  }

  /** One look, and what follows from it. */
  async look(): Promise<void> {
    const { api, nodeId, clock } = this.#options;
    const limit = new AbortController();
    const cancel = clock.after(lookLimitMs, () => {
      limit.abort(new StorError('TIMEOUT', `no answer within ${lookLimitMs / 1_000} s`));
    });
    const signal = AbortSignal.any([limit.signal, this.#closing.signal]);
    try {
      const { leader, quorum } = await api.getClusterStatus({}, { signal });
      if (!quorum || leader?.nodeId !== nodeId) {
        this.#downSinceMs.clear();
        return;
      }
      await this.#act(signal);
    } catch (error) {
      // what was not seen without a break does not count
      this.#downSinceMs.clear();
      throw error;
    } finally {
      cancel();
    }
  }

  async #act(signal: AbortSignal): Promise<void> {
    const { kubernetes, clock, waitMs = defaultNodeLossWaitMs, logger } = this.#options;
    const found = await kubernetes.nodes(signal);
    const watched = await this.#watched(found, signal);
    const nowMs = clock.monotonicMs();
    const downForMs = this.#downFor(watched, nowMs);
    const first = planNodeLoss(watched, downForMs, { waitMs });
    const looked = await this.#withPods(watched, first.lost, signal);
    const plan = planNodeLoss(looked, downForMs, { waitMs });
    const refused = new Map(plan.refused.map(({ name, reason }) => [name, reason]));
    for (const [name, reason] of refused) {
      if (this.#refusals.get(name) === reason) continue;
      logger.warn({ node: name, reason }, 'a silent node is not taken out of service');
    }
    this.#refusals.clear();
    for (const [name, reason] of refused) this.#refusals.set(name, reason);
    for (const name of plan.lost) {
      const taint = { key: outOfServiceKey, value: outOfServiceValue, effect: 'NoExecute' };
      if (await this.#setTaints(found, name, (taints) => [...taints, taint], signal)) {
        logger.warn({ node: name, waitMs }, 'a lost node is taken out of service');
      }
    }
    for (const name of plan.back) {
      const isOther = ({ key, value }: { key: string; value: string }): boolean =>
        key !== outOfServiceKey || value !== outOfServiceValue;
      if (await this.#setTaints(found, name, (taints) => taints.filter(isOther), signal)) {
        logger.info({ node: name }, 'a node that was lost is in service again');
      }
    }
  }

  /** Nodes that run an agent. */
  async #watched(found: readonly KubernetesNode[], signal: AbortSignal): Promise<WatchedNode[]> {
    const { api, kubernetes, driverName } = this.#options;
    const ids = await kubernetes.nodeIds(driverName, signal);
    const attachments = await kubernetes.attachments(signal);
    const { nodes } = await api.listNodes({}, { signal });
    const states = new Map(nodes.map(({ metadata, status }) => [metadata.id, status.state]));
    return found.flatMap(({ metadata, spec, status }): WatchedNode[] => {
      const { name } = metadata;
      const state = states.get(ids.get(name) ?? '');
      if (state === undefined) return [];
      const taint = spec.taints.find(({ key }) => key === outOfServiceKey);
      const ready = status.conditions.find(({ type }) => type === 'Ready');
      const others = attachments.filter(
        ({ attacher, nodeName }) => nodeName === name && attacher !== driverName,
      );
      return [
        {
          name,
          isUp: state === 'up',
          isReady: ready?.status === 'True',
          outOfService: taint?.value ?? null,
          otherDrivers: [...new Set(others.map(({ attacher }) => attacher))],
        },
      ];
    });
  }

  /** Adds what pods of the named nodes use without attaching it. */
  async #withPods(
    watched: readonly WatchedNode[],
    names: readonly string[],
    signal: AbortSignal,
  ): Promise<WatchedNode[]> {
    if (names.length === 0) return [...watched];
    const { kubernetes, driverName } = this.#options;
    const volumes = await kubernetes.persistentVolumes(signal);
    const looked: WatchedNode[] = [];
    for (const node of watched) {
      if (!names.includes(node.name)) {
        looked.push(node);
        continue;
      }
      const pods = await kubernetes.podsOf(node.name, signal);
      const foreign = foreignStorage(pods, volumes, driverName);
      looked.push({ ...node, otherDrivers: [...node.otherDrivers, ...foreign] });
    }
    return looked;
  }

  #downFor(watched: readonly WatchedNode[], nowMs: number): Map<string, number> {
    const silent = watched.filter(({ isUp, isReady }) => !isUp && !isReady);
    const names = new Set(silent.map(({ name }) => name));
    for (const name of this.#downSinceMs.keys()) {
      if (!names.has(name)) this.#downSinceMs.delete(name);
    }
    for (const name of names) {
      if (!this.#downSinceMs.has(name)) this.#downSinceMs.set(name, nowMs);
    }
    return new Map([...this.#downSinceMs].map(([name, sinceMs]) => [name, nowMs - sinceMs]));
  }

  /** False: the node has changed meanwhile, so it is looked at again later. */
  async #setTaints(
    found: readonly KubernetesNode[],
    name: string,
    change: (taints: KubernetesNode['spec']['taints']) => { key: string; value: string }[],
    signal: AbortSignal,
  ): Promise<boolean> {
    const node = found.find(({ metadata }) => metadata.name === name);
    if (!node) return false;
    try {
      await this.#options.kubernetes.setTaints(node, change(node.spec.taints), signal);
      return true;
    } catch (error) {
      if (hasCode(error, 'CONFLICT')) return false;
      throw error;
    }
  }
}
