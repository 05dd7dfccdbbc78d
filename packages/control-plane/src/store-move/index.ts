export { embeddedStore, freezeKey, originKey } from '../core/store-move/move-records.ts';
export type {
  FreezeRecord,
  MoveMembers,
  MoveTls,
  OriginRecord,
} from '../core/store-move/move-records.ts';
export { FreezableStore } from './freezable-store.ts';
export { StoreMove } from './store-move.ts';
export type { MoveStore, OpenTarget, TargetOfMove } from './store-move.ts';
export { readOrigin, StoreMoveWatch } from './store-move-watch.ts';
