import { StorError } from '@stor/protocol';
import { embeddedStore, type FreezeRecord, type OriginRecord } from './move-records.ts';

/** What is seen of a move, in the store that is left and in the one that is gone to. */
export interface MoveView {
  clusterId: string;
  to: string;
  freeze: FreezeRecord | null;
  origin: OriginRecord | null;
  /** the other store holds keys, apart from the record of its origin */
  targetHasKeys: boolean;
  /** the other store does not hold exactly what is to be copied */
  differs: boolean;
}

/**
 * - `freeze`: the record that stops all writers of the old store
 * - `enlist`: the members of the embedded store that is moved to
 * - `claim`: the record of the origin in the new store, which says that it is not complete
 * - `copy`: put what differs, while the origin is as it was
 * - `seal`: from now on there is no way back
 * - `complete`: the new store may be used
 * - `close`: the old store says where everything is
 */
export type MoveStep =
  'freeze' | 'enlist' | 'claim' | 'copy' | 'seal' | 'complete' | 'close' | 'done';

/**
 * The next step of a move, by what is there and nothing else: whoever was killed anywhere, or works at
 * the same time, comes to the same. FAILED_PRECONDITION when this move cannot be made.
 */
export function nextStep(view: MoveView): MoveStep {
  const { freeze, origin, to } = view;
  if (freeze && freeze.to !== to) {
    throw new StorError(
      'FAILED_PRECONDITION',
      `the cluster store is being moved to ${freeze.to} already: finish that with the same command, or give it up with --abort`,
    );
  }
  const isOurs = origin !== null && freeze !== null && origin.id === freeze.id;
  if (!isOurs) checkFree(view);
  if (!freeze) return 'freeze';
  if (freeze.phase === 'moved') return 'done';
  if (to === embeddedStore && !freeze.members) return 'enlist';
  if (!isOurs) {
    if (freeze.phase === 'copying') return 'claim';
    throw new StorError(
      'FAILED_PRECONDITION',
      `${to} does not hold what was copied to it any more: was it emptied, or put back to a backup?`,
    );
  }
  if (origin.phase === 'complete') return 'close';
  if (freeze.phase === 'completing') return 'complete';
  return view.differs ? 'copy' : 'seal';
}

/** Only what an attempt of this cluster has left behind may be overwritten. */
function checkFree({ origin, targetHasKeys, clusterId, to }: MoveView): void {
  const isLeftBehind = origin?.phase === 'copying' && origin.clusterId === clusterId;
  if (isLeftBehind || (origin === null && !targetHasKeys)) return;
  throw new StorError(
    'FAILED_PRECONDITION',
    `${to} is in use: it holds keys of ${origin ? `cluster ${origin.clusterId}` : 'somebody'}; give another prefix`,
  );
}

/** Whether a move may be given up. FAILED_PRECONDITION. */
export function checkAbort(freeze: FreezeRecord | null): asserts freeze is FreezeRecord {
  if (!freeze) throw new StorError('FAILED_PRECONDITION', 'the cluster store is not being moved');
  if (freeze.phase === 'copying') return;
  throw new StorError(
    'FAILED_PRECONDITION',
    `the move to ${freeze.to} cannot be given up any more, agents may use it already: repeat "storctl cluster migrate-store --to ${freeze.to}" to finish it`,
  );
}
