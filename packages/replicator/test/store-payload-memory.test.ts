/** The bytes of a write are the caller's again when it is answered: nothing may read them any more. */
import { blockBytes, chunkBytes } from '@stor/protocol';
import { crc32, type Files, type OpenFile } from '@stor/runtime';
import { FaultyFiles } from '@stor/runtime/testing';
import t from 'tap';
import { blocksOf, call, flush, identity, openStore } from './store-fixture.ts';

/** Turns of the event loop after an answer in which nothing of the write may happen any more. */
const quietTurns = 200;

/** Pooled writes of one payload: each takes some turns, and one may fail at once while others run. */
class Watch {
  payload: Uint8Array | null = null;
  running = 0;
  begun = 0;
  /** the write of the payload, counted from 0, that fails; -1: none */
  failAt = -1;

  of(files: Files): Files {
    return proxied(files, {
      open: (path: string) => this.#file(files.open(path)),
      create: (path: string) => this.#file(files.create(path)),
    });
  }

  #file(file: OpenFile): OpenFile {
    const write: OpenFile['write'] = (bytes, start, length, position, done) => {
      if (bytes.buffer !== this.payload?.buffer) {
        file.write(bytes, start, length, position, done);
        return;
      }
      const number = this.begun++;
      this.running += 1;
      const isFailing = number === this.failAt;
      afterTurns(isFailing ? 1 : 5 + ((number * 7) % 11), () => {
        this.running -= 1;
        if (isFailing) done(Object.assign(new Error('EIO: i/o error'), { code: 'EIO' }));
        else file.write(bytes, start, length, position, done);
      });
    };
    return proxied(file, { write });
  }
}

function proxied<T extends object>(target: T, own: Record<string, unknown>): T {
  return new Proxy(target, {
    get: (of, name) => {
      if (typeof name === 'string' && name in own) return own[name];
      const value: unknown = Reflect.get(of, name, of);
      return typeof value === 'function' ? (value.bind(of) as unknown) : value;
    },
    set: (of, name, value) => Reflect.set(of, name, value, of),
  });
}

function afterTurns(turns: number, then: () => void): void {
  if (turns === 0) then();
  else setImmediate(() => afterTurns(turns - 1, then));
}

/** New chunks, own ones, and such that a snapshot shows too, in one write. */
async function attempt(failAt: number): Promise<{ writes: number; failed: boolean; late: number }> {
  const watch = new Watch();
  const files = watch.of(new FaultyFiles({ seed: 5 }).process());
  const store = await openStore('/disk', files);
  const replica = await store.createReplica(identity);
  await call((done) => {
    replica.fence(1, done);
  });
  const before = blocksOf(64 * 3, 1);
  await call((done) => {
    replica.write(0, before.bytes.length, before.bytes, 0, before.sums, 0, done);
  });
  await flush(replica);
  // several chunks, not aligned to them
  const offset = chunkBytes / 2;
  const length = 5 * chunkBytes;
  const payload = Buffer.from(new ArrayBuffer(length)).fill(9);
  const sums = new Uint32Array(length / blockBytes).fill(crc32(payload.subarray(0, blockBytes)));
  watch.payload = payload;
  watch.failAt = failAt;
  let failed = false;
  let late = 0;
  await new Promise<void>((resolve) => {
    replica.write(offset, length, payload, 0, sums, 0, (error) => {
      failed = error !== null;
      late = watch.running;
      resolve();
    });
  });
  const begun = watch.begun;
  for (let turn = 0; turn < quietTurns; turn++) {
    await new Promise((resolve) => setImmediate(resolve));
    late = Math.max(late, watch.running);
  }
  late += watch.begun - begun;
  await store.close().catch(() => {});
  return { writes: begun, failed, late };
}

t.test('a large write is answered when none of its pooled writes runs any more', async (t) => {
  const whole = await attempt(-1);
  t.notOk(whole.failed);
  t.equal(whole.late, 0);
  t.ok(whole.writes > 3, `${whole.writes} pooled writes`);
  for (let failAt = 0; failAt < whole.writes; failAt++) {
    const { failed, late } = await attempt(failAt);
    t.ok(failed, `write ${failAt} of ${whole.writes} fails`);
    t.equal(late, 0, 'nothing of it goes on');
  }
});
