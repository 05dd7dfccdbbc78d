import type { RoomPromise } from '../core/store/space-ledger.ts';

/** Room at a store that nobody else uses: all of it may be kept for its writer. */
export function memoryRoom(freeChunks: () => number): RoomPromise {
  const room = (): number => Math.max(0, freeChunks());
  let limit = 0;
  return {
    get held() {
      return Math.min(limit, room());
    },
    taken: 0,
    get room() {
      return room();
    },
    sharers: 1,
    raise(chunks) {
      limit = Math.min(limit, room()) + chunks;
    },
    lower(chunks) {
      limit = Math.min(limit, chunks);
    },
  };
}
