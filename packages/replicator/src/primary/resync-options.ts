import type { BackgroundTurns } from '../background-turns.ts';
import type { ResyncPace } from '../core/replication/resync-pace.ts';
import type { StructureRules } from '../core/replication/snapshot-structure.ts';
import type { ForegroundProbe } from './foreground-probe.ts';

/** What the resyncs of one segment need of the others of its parts, and of its lane. */
export interface ResyncOptions {
  /** the volume serves and nothing of it is to be settled */
  mayStart: () => boolean;
  pendingRanges: () => { offset: number; length: number }[];
  /** checkpoints may go on, members may be looked at again */
  joined: () => void;
  pace: ResyncPace;
  turns: BackgroundTurns;
  probe: ForegroundProbe;
  /** which snapshots a member is to have */
  rules: StructureRules;
}
