import type { ReplicaId } from '@stor/protocol';
import type { Versioned } from './cluster-state.ts';
import type { ReplicaReport } from './records.ts';

type Report = Versioned<ReplicaReport>;

/** What nodes say of replicas, which knows those that failed: few among many. */
export class ReportTable extends Map<ReplicaId, Report> {
  readonly #failed = new Set<ReplicaId>();

  constructor(reports: Iterable<readonly [ReplicaId, Report]> = []) {
    // the base class would fill itself before the index is there
    super();
    for (const [id, report] of reports) this.set(id, report);
  }

  override set(id: ReplicaId, report: Report): this {
    super.set(id, report);
    if (report.value.state === 'failed') this.#failed.add(id);
    else this.#failed.delete(id);
    return this;
  }

  override delete(id: ReplicaId): boolean {
    this.#failed.delete(id);
    return super.delete(id);
  }

  override clear(): void {
    super.clear();
    this.#failed.clear();
  }

  get failed(): ReadonlySet<ReplicaId> {
    return this.#failed;
  }
}
