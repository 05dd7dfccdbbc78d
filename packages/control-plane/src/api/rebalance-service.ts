import { StorError } from '@stor/protocol';
import type { EventReason, Rebalance, StorApi } from '@stor/protocol';
import type { Clock } from '@stor/runtime';
import type { EventLog } from '../agent/event-log.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { describeRebalance } from '../core/rebalance/describe-rebalance.ts';
import {
  begunRebalance,
  changedRebalance,
  defaultRebalance,
  isUnderWay,
  orderedRebalance,
} from '../core/rebalance/rebalance-record.ts';
import type { RebalanceRecord } from '../core/rebalance/rebalance-record.ts';
import type { ClusterState } from '../resources/cluster-state.ts';
import { readState } from '../resources/find.ts';
import { rebalanceKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import { readSoon } from './read-soon.ts';
import type { UnaryMethod } from './serve-unary.ts';

type Request<M extends keyof StorApi> = Parameters<StorApi[M]>[0];

/** Lost races in a row after which a caller is told to try again. */
const maxConflicts = 20;

interface RebalanceParts {
  store: ClusterStore;
  events: EventLog;
  clock: Clock;
}

/** The verbs of a rebalance. They change its record only: the leader acts on it. */
export class RebalanceService {
  readonly #parts: RebalanceParts;

  constructor(parts: RebalanceParts) {
    this.#parts = parts;
  }

  /** See StorApi.startRebalance. */
  async start(request: Request<'startRebalance'>): Promise<Rebalance> {
    const begin = (before: RebalanceRecord | null): RebalanceRecord => {
      if (before && isUnderWay(before)) {
        return {
          ...before,
          state: 'running',
          settings: changedRebalance(before.settings, request),
        };
      }
      const settings = changedRebalance(defaultRebalance, request);
      return begunRebalance(before, { settings, nowWallMs: this.#parts.clock.wallMs() });
    };
    if (request.dryRun === true) {
      const state = await this.#read();
      const record = begin(state.rebalance?.value ?? null);
      return describeRebalance(state, record, { isDryRun: true });
    }
    return this.#change(begin);
  }

  /** See StorApi.orderRebalance. */
  order({ order }: Request<'orderRebalance'>): Promise<Rebalance> {
    if (!['pause', 'resume', 'stop'].includes(order)) {
      const given = JSON.stringify(String(order).slice(0, 32));
      throw new StorError('INVALID_ARGUMENT', `order ${given}: use pause, resume or stop`);
    }
    return this.#change((before) => orderedRebalance(before, order, this.#parts.clock.wallMs()));
  }

  /** See StorApi.getRebalance. */
  async get(): Promise<Rebalance> {
    const state = await this.#read();
    return describeRebalance(state, state.rebalance?.value ?? null);
  }

  #read(): Promise<ClusterState> {
    return readSoon((options) => readState(this.#parts.store, options));
  }

  /** `change` returns null when everything stays as it is. */
  async #change(
    change: (before: RebalanceRecord | null) => RebalanceRecord | null,
  ): Promise<Rebalance> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await readState(this.#parts.store);
      const before = state.rebalance?.value ?? null;
      const record = change(before);
      if (!record) return describeRebalance(state, before);
      const modRevision = state.rebalance?.modRevision ?? 0;
      const { succeeded, revision } = await this.#parts.store.transact({
        compare: [{ key: rebalanceKey, modRevision }],
        operations: [{ type: 'put', key: rebalanceKey, value: encodeRecord(record) }],
      });
      if (!succeeded) continue;
      this.#tell(state, before, record);
      state.rebalance = { value: record, modRevision: revision };
      return describeRebalance(state, record);
    }
    throw new StorError('CONFLICT', 'the rebalance changes too often: try again');
  }

  #tell(state: ClusterState, before: RebalanceRecord | null, record: RebalanceRecord): void {
    const isSame = before?.state === record.state && before.startedAtMs === record.startedAtMs;
    if (isSame) return;
    const { clusterId = '', name = '' } = state.cluster?.value ?? {};
    const [reason, message] = notes[record.state] ?? notes['running'];
    this.#parts.events.note({
      type: 'normal',
      reason,
      object: { kind: 'cluster', id: clusterId, name },
      message,
    });
  }
}

const notes: Record<string, [EventReason, string]> & { running: [EventReason, string] } = {
  running: ['rebalance-started', 'replicas move until disks are about equally full'],
  paused: [
    'rebalance-paused',
    'no more replicas move to make disks equally full until it is resumed',
  ],
  stopped: ['rebalance-stopped', 'the rebalance was called off'],
};

type RebalanceMethod = 'startRebalance' | 'orderRebalance' | 'getRebalance';

export function rebalanceMethods(service: RebalanceService): Record<RebalanceMethod, UnaryMethod> {
  return {
    startRebalance: (request: Request<'startRebalance'>) => service.start(request),
    orderRebalance: (request: Request<'orderRebalance'>) => service.order(request),
    getRebalance: () => service.get(),
  };
}
