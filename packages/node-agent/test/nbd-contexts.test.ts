import { StorError } from '@stor/protocol';
import {
  NbdClient,
  NbdError,
  allocationContext,
  encodeMetaContextBody,
  optionReplyType,
  optionType,
  transmissionFlag,
} from 'nbd-client-js';
import t from 'tap';
import { askedContexts, snapshotOfContext } from '../src/core/nbd/meta-contexts.ts';
import { changedBytes, rawClient, startServer } from './nbd-harness.ts';

const sizeBytes = 1 << 20;
const monday = 'stor:dirty-since-monday';
const tuesday = 'stor:dirty-since-tuesday';

t.test('queries ask for what the specification says', async (t) => {
  t.same(askedContexts([], false), { allocation: true, dirtySince: 'all' });
  t.same(askedContexts([], true), { allocation: false, dirtySince: [] }, 'setting needs names');
  t.same(askedContexts(['base:'], false), { allocation: true, dirtySince: [] });
  t.same(askedContexts(['stor:'], false), { allocation: false, dirtySince: 'all' });
  t.same(askedContexts(['stor:dirty-since-'], false), { allocation: false, dirtySince: 'all' });
  t.same(askedContexts(['stor:', 'stor:dirty-since-', 'base:'], true), {
    allocation: false,
    dirtySince: [],
  });
  t.same(askedContexts([monday, 'x:y', monday, allocationContext], true), {
    allocation: true,
    dirtySince: ['monday'],
  });
  t.equal(snapshotOfContext('stor:dirty-since-'), null);
  t.equal(snapshotOfContext(allocationContext), null);
});

t.test('contexts are listed, all or those of a query', async (t) => {
  const { exports, port } = await startServer(t, { sizeBytes });
  exports.snapshots.set('db', new Map(['monday', 'tuesday'].map((name) => [name, new Set()])));
  const target = { host: '127.0.0.1', port, exportName: 'db' };
  const list = (...queries: string[]): Promise<string[]> =>
    NbdClient.listMetaContexts(target, queries);
  t.same(await list(), [allocationContext, monday, tuesday]);
  t.same(await list('stor:'), [monday, tuesday]);
  t.same(await list('base:'), [allocationContext]);
  t.same(await list(tuesday, 'stor:dirty-since-never'), [tuesday]);
  t.same(await list('qemu:'), []);
  await t.rejects(NbdClient.listMetaContexts({ ...target, exportName: 'no' }), {
    code: 'REFUSED',
    optionReply: optionReplyType.errUnknown,
  });
});

t.test('block status answers in several contexts at once', async (t) => {
  const { exports, device, port } = await startServer(t, { sizeBytes });
  const changed = new Map([
    ['monday', new Set([1, 2, 9])],
    ['tuesday', new Set([9])],
  ]);
  exports.snapshots.set('db', changed);
  const client = await NbdClient.connect({
    host: '127.0.0.1',
    port,
    exportName: 'db',
    metaContexts: [tuesday, 'stor:dirty-since-never', allocationContext, monday],
  });
  t.teardown(() => client.close());
  t.same(new Set(client.metaContexts), new Set([allocationContext, monday, tuesday]));
  await client.write(3 * changedBytes, Buffer.alloc(changedBytes, 1));

  const answer = await client.blockStatuses(0, sizeBytes);
  const dirtyOf = (context: string): number[] =>
    (answer.get(context) ?? []).flatMap(({ offset, length, flags }) => {
      const first = offset / changedBytes;
      return flags === 1
        ? Array.from({ length: length / changedBytes }, (_, at) => first + at)
        : [];
    });
  t.same(dirtyOf(monday), [1, 2, 9]);
  t.same(dirtyOf(tuesday), [9]);
  t.same(
    answer.get(allocationContext)?.map(({ length, flags }) => [length / changedBytes, flags]),
    [
      [3, 3],
      [1, 0],
      [12, 3],
    ],
  );
  t.same(
    await client.blockStatus(changedBytes, sizeBytes - changedBytes, {
      context: monday,
      reqOne: true,
    }),
    [{ offset: changedBytes, length: 2 * changedBytes, flags: 1, hole: true, zero: false }],
  );

  // an error in one context is the answer to all of it, and the connection goes on
  changed.delete('monday');
  await t.rejects(client.blockStatuses(0, sizeBytes), { code: 'IO' });
  device.behaviour.fail = (operation) =>
    operation === 'extents' ? new StorError('DISK_FAILED', 'broken') : null;
  await t.rejects(client.blockStatuses(0, sizeBytes), { code: 'IO', errnoName: 'EIO' });
  device.behaviour.fail = null;
  t.equal((await client.read(3 * changedBytes, 1))[0], 1);
});

t.test('contexts count for the export that they were set for, and up to a limit', async (t) => {
  const { exports, port } = await startServer(t, { sizeBytes, limits: { metaContexts: 4 } });
  exports.snapshots.set('db', new Map(['a', 'b', 'c', 'd'].map((name) => [name, new Set()])));
  const client = rawClient(t, port);
  await client.greet();
  await client.option(optionType.structuredReply);
  const set = (name: string, queries: string[]): Promise<{ type: number; data: Buffer }[]> =>
    client.option(optionType.setMetaContext, encodeMetaContextBody({ name, queries }));
  const contexts = ['a', 'b', 'c', 'd'].map((name) => `stor:dirty-since-${name}`);
  const refused = await set('db', contexts);
  t.same(
    refused.map(({ type }) => type),
    [optionReplyType.errTooBig],
  );
  const taken = await set('db', contexts.slice(0, 3));
  t.same(
    taken.map(({ type, data }) => (type === 1 ? 'ack' : data.readUInt32BE(0))),
    [1, 2, 3, 'ack'],
    'ids are told apart',
  );
});

t.test('a snapshot is exported read-only: what would change it gets EPERM', async (t) => {
  const { exports, port } = await startServer(t, { sizeBytes });
  const device = exports.add('db@monday', sizeBytes);
  const client = await NbdClient.connect({ host: '127.0.0.1', port, exportName: 'db@monday' });
  t.teardown(() => client.close());
  const { readOnly, canMultiConn, sendTrim, sendWriteZeroes } = transmissionFlag;
  t.equal(client.flags & (readOnly | canMultiConn), readOnly | canMultiConn);
  t.equal(client.flags & (sendTrim | sendWriteZeroes), 0);
  await t.rejects(client.write(0, Buffer.alloc(4096, 7)), { code: 'IO', errnoName: 'EPERM' });
  await t.rejects(client.trim(0, 4096), NbdError, 'the client knows that it cannot');
  t.equal(device.calls.write, 0);
  t.same(await client.read(0, 4096), Buffer.alloc(4096));
  await client.flush();
});
