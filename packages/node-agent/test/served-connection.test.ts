import type { PrimaryVolume } from '@stor/replicator';
import { FakeClock } from '@stor/runtime/testing';
import t from 'tap';
import { ServedConnection } from '../src/exports/served-connection.ts';

t.test('a target that was found is waited for no more when it is lost in its turn', async (t) => {
  const clock = new FakeClock();
  const seen: boolean[] = [];
  let found: PrimaryVolume | null = null;
  const primary = { sizeBytes: 4096 } as unknown as PrimaryVolume;
  const connection = new ServedConnection({
    name: 'db',
    isDirect: false,
    peer: { id: 1, remote: 'test', client: null, contexts: [], left: new AbortController().signal },
    snapshots: new Map(),
    relayIdentity: { id: 'c', sequence: [] },
    clock,
    place: async (each) => {
      seen.push(each.waitsForTarget);
      if (found) each.serveFrom(found);
      return found !== null;
    },
    leaveEntry: () => {},
  });
  found = primary;
  await connection.open();
  found = null;
  connection.move();
  t.same(seen, [false, true], 'after a handover its target is waited for');
  const settle = async (): Promise<void> => {
    for (let i = 0; i < 10; i++) await Promise.resolve();
  };
  await settle();
  found = primary;
  clock.advance(50);
  await settle();
  t.equal(seen.at(-1), true);
  t.equal(connection.waitsForTarget, false, 'it serves now');
  connection.release();
});
