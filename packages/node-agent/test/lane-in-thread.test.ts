import { silentLogger } from '@stor/runtime';
import { FakeClock, FaultyFiles, MemoryNetwork } from '@stor/runtime/testing';
import t from 'tap';
import type { LaneOptions, MainMethods } from '../src/index.ts';
import { diskProbeMs } from '../src/lane/lane.ts';
import { ThreadLock } from '../src/lane/thread-lock.ts';
import { startLaneInThread } from '../src/testing/index.ts';

const options: LaneOptions = {
  lane: 0,
  lanes: 1,
  failureLock: ThreadLock.newMemory(),
  clusterId: 'c-00000000000000c1',
  nodeId: 'n-0000000000000001',
  nodeName: 'n1',
  agentInstance: 'a1',
  bootId: 'boot-1',
  dataDir: '/data',
  host: '10.0.0.1',
  peersPort: 1,
  nbdPort: 2,
  nbdUnixPath: null,
  diskReserveBytes: null,
  autoDetachMs: 30_000,
  logLevel: 'info',
};

function started() {
  const clock = new FakeClock();
  const host = new MemoryNetwork({ clock }).host('n1');
  const files = new FaultyFiles({ seed: 1 }).process();
  files.makeDirectory('/data');
  const machine = { files, network: host };
  const lane = startLaneInThread(options, {} as MainMethods, {
    clock,
    logger: silentLogger,
    machine,
  });
  const during = async <T>(promise: Promise<T>): Promise<T> => {
    const state = { isDone: false };
    const done = (): void => {
      state.isDone = true;
    };
    promise.then(done, done);
    for (let i = 0; i < 1_000 && !state.isDone; i++) {
      clock.advance(1);
      await new Promise((resolve) => setImmediate(resolve));
    }
    return promise;
  };
  return { lane, during };
}

t.test('calls of a lane in this thread are copied, and answered in later events', async (t) => {
  const { lane, during } = started();
  t.same(await during(lane.methods.listen()), { peersPort: 1, nbdPort: 2 });
  const entry = { diskId: 'd-0000000000000001', path: '/disk', tag: 'ssd', create: true };
  const opening = lane.methods.openDisk(entry);
  entry.path = '/elsewhere';
  const disk = await during(opening);
  t.equal(disk.path, '/disk', 'the arguments are those of the time of the call');
  disk.tag = 'changed';
  t.equal((await during(lane.methods.disks()))[0]?.tag, 'ssd', 'answers are copies');
  const deaths: string[] = [];
  lane.onDeath((error) => deaths.push(error.message));
  await during(Promise.all([lane.close(), lane.close()]));
  t.same(deaths, [], 'an end that was asked for is no death');
  await t.rejects(lane.methods.disks(), { code: 'INTERNAL' });
});

t.test('a lane that is killed answers nobody, and the agent hears of it', async (t) => {
  const { lane, during } = started();
  await during(lane.methods.listen());
  const deaths: string[] = [];
  lane.onDeath((error) => deaths.push(error.message));
  const waiting = lane.methods.disks();
  lane.kill();
  lane.kill();
  await t.rejects(waiting, { code: 'INTERNAL', message: /killed/ });
  t.same(deaths, ['lane 0 ended: killed']);
});

t.test('a disk that dies while nobody uses it is noticed and reported', async (t) => {
  const clock = new FakeClock();
  const host = new MemoryNetwork({ clock }).host('n1');
  const files = new FaultyFiles({ seed: 1 });
  const machine = { files: files.process(), network: host };
  machine.files.makeDirectory('/data');
  const reported: { diskId: string; replicaId: string | null; reason: string }[] = [];
  const main = {
    reportFailure: async (failure: (typeof reported)[number]) => {
      reported.push(failure);
    },
  } as unknown as MainMethods;
  const lane = startLaneInThread(options, main, { clock, logger: silentLogger, machine });
  const pass = async (until: () => boolean, ms: number): Promise<void> => {
    for (let i = 0; i < ms && !until(); i += 100) {
      clock.advance(100);
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const done = async <T>(promise: Promise<T>): Promise<T> => {
    let isOver = false;
    void promise.then(() => (isOver = true));
    await pass(() => isOver, 10_000);
    return promise;
  };
  const diskId = 'd-0000000000000001';
  await done(lane.methods.openDisk({ diskId, path: '/disk', tag: '', create: true }));
  await pass(() => false, 3 * diskProbeMs);
  t.equal((await done(lane.methods.disks()))[0]?.state, 'online');
  t.same(reported, []);
  files.hook = (_operation, path) => (path.startsWith('/disk') ? 'EIO' : null);
  await pass(() => reported.length > 0, 3 * diskProbeMs);
  t.match(reported, [{ diskId, replicaId: null, reason: /probe failed: .*EIO/ }]);
  t.match((await done(lane.methods.disks()))[0], { state: 'failed', isLost: true });
  t.match(machine.files.list('/data'), ['failures.jsonl'], 'noted outside the disk');
  await pass(() => false, 3 * diskProbeMs);
  t.equal(reported.length, 1, 'told once');
  files.hook = () => null;
  await done(lane.close());
});
