import { StorError } from '@stor/protocol';
import type { PrimaryVolume } from '@stor/replicator';
import { FakeClock } from '@stor/runtime/testing';
import t from 'tap';
import type { QosDevice } from '../src/qos/qos-device.ts';
import { LaneQos } from '../src/qos/lane-qos.ts';
import { ServedConnection } from '../src/exports/served-connection.ts';

function shared(primary: PrimaryVolume): QosDevice {
  const facts = { volumeId: 'v-1', name: 'db', resourceVersion: 1 };
  return new LaneQos(new FakeClock()).open(facts).device(primary);
}

t.test('a target that was found is waited for no more when it is lost in its turn', async (t) => {
  const clock = new FakeClock();
  const seen: boolean[] = [];
  let found: PrimaryVolume | null = null;
  const primary = { sizeBytes: 4096 } as unknown as PrimaryVolume;
  const connection = new ServedConnection({
    name: 'db',
    publication: null,
    isDirect: false,
    peer: {
      id: 1,
      remote: 'test',
      tls: null,
      client: null,
      contexts: [],
      left: new AbortController().signal,
    },
    snapshots: new Map(),
    relayIdentity: { id: 'c', sequence: [] },
    clock,
    place: async (each) => {
      seen.push(each.waitsForTarget);
      if (found) each.serveFrom(found, shared(found), false);
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

t.test(
  'a node that the cluster refuses says to its clients that another may serve them',
  async (t) => {
    const clock = new FakeClock();
    let isRefused = false;
    const why = 'node n3 (n-3) was decommissioned at ...';
    const connection = new ServedConnection({
      name: 'db',
      publication: null,
      isDirect: false,
      peer: {
        id: 1,
        remote: 'test',
        tls: null,
        client: null,
        contexts: [],
        left: new AbortController().signal,
      },
      snapshots: new Map(),
      relayIdentity: { id: 'c', sequence: [] },
      clock,
      place: async (each) => {
        if (isRefused) throw new StorError('PERMISSION_DENIED', why);
        const primary = { sizeBytes: 4096 } as unknown as PrimaryVolume;
        each.serveFrom(primary, shared(primary), false);
        return true;
      },
      leaveEntry: () => {},
    });
    const { device } = await connection.open();
    isRefused = true;
    connection.hold();
    connection.move();
    const answers: (StorError | null)[] = [];
    const bytes = new Uint8Array(512);
    const request = { offset: 0, length: 512, bytes, start: 0, retained: true, noHole: false };
    device.write({ ...request, fua: false, done: (error) => answers.push(error) });
    for (let ms = 0; ms < 70_000 && answers.length === 0; ms += 50) {
      clock.advance(50);
      for (let i = 0; i < 10; i++) await Promise.resolve();
    }
    // EPERM would be an error of the request: a client that reconnects by itself would give it up
    t.match(answers, [{ code: 'UNAVAILABLE', message: why }]);
    connection.release();
  },
);
