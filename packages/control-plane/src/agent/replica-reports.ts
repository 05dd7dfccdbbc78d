import { StorError } from '@stor/protocol';
import type { ReplicaId } from '@stor/protocol';
import type { ClusterStore, Compare, Operation } from '../cluster-store.ts';
import { replicaReportKey } from '../resources/keys.ts';
import { decodeReplicaReport, encodeRecord } from '../resources/records.ts';
import type { ReplicaReport } from '../resources/records.ts';
import { maxBatchItems } from '../resources/batch-limits.ts';

interface Waiting {
  report: ReplicaReport;
  resolve: () => void;
  reject: (error: StorError) => void;
}

/**
 * What this node reports of replicas. A volume may have hundreds of them here, and each report is a
 * round of the quorum that every member looks at: those that come while others are being written are
 * written together after them.
 */
export class ReplicaReports {
  readonly #store: Pick<ClusterStore, 'get' | 'transact'>;
  #waiting: Waiting[] = [];
  #isRunning = false;

  constructor(store: Pick<ClusterStore, 'get' | 'transact'>) {
    this.#store = store;
  }

  /** Resolves when it is written, or when what is known already is for good. CONFLICT, UNAVAILABLE. */
  write(report: ReplicaReport): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ report, resolve, reject });
      if (!this.#isRunning) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    while (this.#waiting.length > 0) {
      const batch = this.#take();
      const isWritten = await this.#write(batch);
      // one of them was changed by somebody else: each stands for itself
      if (!isWritten) for (const one of batch) await this.#alone(one);
    }
    this.#isRunning = false;
  }

  /** The oldest of each replica. */
  #take(): Waiting[] {
    const batch = new Map<ReplicaId, Waiting>();
    const rest: Waiting[] = [];
    for (const one of this.#waiting) {
      const { replicaId } = one.report;
      if (batch.has(replicaId) || batch.size === maxBatchItems) rest.push(one);
      else batch.set(replicaId, one);
    }
    this.#waiting = rest;
    return [...batch.values()];
  }

  async #alone(one: Waiting): Promise<void> {
    if (await this.#write([one])) return;
    const { replicaId } = one.report;
    one.reject(new StorError('CONFLICT', `the report of ${replicaId} changed meanwhile`));
  }

  /** Answers all of them; false, and none, when one has changed meanwhile. */
  async #write(batch: readonly Waiting[]): Promise<boolean> {
    try {
      const compare: Compare[] = [];
      const operations: Operation[] = [];
      for (const [index, { report }] of batch.entries()) {
        const key = replicaReportKey(report.replicaId);
        // after the first read this member has all that was committed by then
        const item = await this.#store.get(key, { local: index > 0 });
        if (item && isForGood(decodeReplicaReport(item.key, item.value), report)) continue;
        compare.push({ key, modRevision: item?.modRevision ?? 0 });
        operations.push({ type: 'put', key, value: encodeRecord(report) });
      }
      if (operations.length > 0) {
        const { succeeded } = await this.#store.transact({ compare, operations });
        if (!succeeded) return false;
      }
      for (const { resolve } of batch) resolve();
    } catch (error) {
      for (const { reject } of batch) reject(StorError.from(error));
    }
    return true;
  }
}

/** Failed is for good, and nothing follows deleted. */
function isForGood(known: ReplicaReport, { state }: ReplicaReport): boolean {
  return known.state === 'deleted' || (known.state === 'failed' && state !== 'deleted');
}
