import type { ResyncPace } from '../core/replication/resync-pace.ts';
import type { ScrubBudget } from '../core/replication/scrub-budget.ts';
import type { BackgroundTurns } from '../background-turns.ts';
import type { IntegrityLog } from './integrity-log.ts';

/** What all primaries of a lane share. */
export interface LaneParts {
  /** all resyncs and scrubs give way to clients together */
  resyncPace: ResyncPace;
  scrubBudget: ScrubBudget;
  turns: BackgroundTurns;
  integrity: IntegrityLog;
}
