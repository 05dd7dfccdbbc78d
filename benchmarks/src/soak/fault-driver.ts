import { setTimeout as delay } from 'node:timers/promises';
import type { TestCluster } from '../harness/test-cluster.ts';
import { beginFault, type FaultKind } from '../namespaces/faults.ts';
import type { NamespaceNetwork } from '../namespaces/network.ts';
import type { FaultPlan, PlannedFault } from './plan-faults.ts';
import type { FaultRecord, SoakReport } from './soak-report.ts';

/**
 * All volumes are healthy this long after a fault has ended, or something is wrong (ms). A replica that
 * has left again and again waits for two minutes before it is filled.
 */
export const healDeadlineMs = 240_000;

export interface FaultPhase {
  /** the volume whose primary is aimed at */
  volume: string;
  /** volumes that must be healthy before the next fault */
  volumes: readonly string[];
  /** the node that must not suffer in this phase; null: all may */
  spared: number | null;
  endMs: number;
  signal: AbortSignal;
}

/** Lets one fault after another happen, each to one node, and waits for the volumes between them. */
export class FaultDriver {
  readonly #cluster: TestCluster;
  readonly #network: NamespaceNetwork;
  readonly #plan: FaultPlan;
  readonly #report: SoakReport;

  constructor(
    cluster: TestCluster,
    network: NamespaceNetwork,
    plan: FaultPlan,
    report: SoakReport,
  ) {
    this.#cluster = cluster;
    this.#network = network;
    this.#plan = plan;
    this.#report = report;
  }

  /**
   * Until the phase ends. Throws when a volume does not become healthy or an agent does not start, and
   * at once when the run is stopped, however things are then.
   */
  async run(phase: FaultPhase): Promise<void> {
    while (Date.now() < phase.endMs) {
      phase.signal.throwIfAborted();
      const fault = await this.#draw(phase);
      if (!fault) continue;
      const end = await beginFault(this.#cluster, this.#network, fault);
      await delay(fault.lastsMs, undefined, { signal: phase.signal });
      await end();
      if (fault.thenHurry) await delay(500);
      else await this.#waitHealthy(phase);
    }
    await this.#waitHealthy(phase);
  }

  async #draw(phase: FaultPhase): Promise<PlannedFault | null> {
    const nodes = this.#cluster.agents.length;
    const all = Array.from({ length: nodes }, (_, index) => index);
    const [primary, leader] = [
      await this.#cluster.primary(phase.volume),
      await this.#cluster.leader(),
    ];
    const allowed = all.filter((index) => index !== phase.spared);
    const fault = this.#plan.next({ primary, leader, allowed, nodes });
    if (!fault) return null;
    const hitsAll = fault.kind === 'kill-all';
    const wasPrimary = hitsAll || fault.node === primary;
    const wasLeader = hitsAll || fault.node === leader;
    this.#report.faults.push({ ...fault, wasPrimary, wasLeader });
    this.#report.say(describe({ ...fault, wasPrimary, wasLeader }));
    return fault;
  }

  async #waitHealthy({ volumes, signal }: FaultPhase): Promise<void> {
    const startMs = Date.now();
    for (const volume of volumes) {
      const leftMs = Math.max(1_000, healDeadlineMs - (Date.now() - startMs));
      await this.#cluster.waitHealth(volume, 'healthy', leftMs, signal);
    }
  }
}

function describe(fault: FaultRecord): string {
  const { kind, node, other, delayMs, lastsMs } = fault;
  const details: Partial<Record<FaultKind, string>> = {
    pair: ` with n${other + 1}`,
    slow: ` by ${delayMs} ms`,
  };
  const roles = [
    ...(fault.wasPrimary ? ['primary'] : []),
    ...(fault.wasLeader ? ['leader'] : []),
  ].join(', ');
  const whom = kind === 'kill-all' ? '' : ` of n${node + 1}${roles === '' ? '' : ` (${roles})`}`;
  return `${kind}${details[kind] ?? ''}${whom} for ${lastsMs} ms`;
}
