import type { SnapshotExport } from '@stor/control-plane';
import { StorError, blockBytes, chunkBytes } from '@stor/protocol';
import type { ReplicaSnapshotReader, SnapshotSource } from '@stor/replicator';
import { silentLogger, systemClock, systemNetwork } from '@stor/runtime';
import {
  NbdClient,
  ReconnectingNbdClient,
  allocationContext,
  chunkType,
  command,
  optionReplyType,
  transmissionFlag,
} from 'nbd-client-js';
import t, { type Test } from 'tap';
import { VolumeExports } from '../src/exports/volume-exports.ts';
import type { MainMethods } from '../src/lane/lane-protocol.ts';
import { NbdServer } from '../src/nbd/nbd-server.ts';
import { rawClient } from './nbd-harness.ts';

const segmentBytes = 4 * chunkBytes;
/** two segments, and neither whole chunks nor whole blocks */
const sizeBytes = 6 * chunkBytes + 5 * blockBytes + 77;

interface Rig {
  port: number;
  truth: Buffer;
  /** replicas that lost the snapshot, or are away */
  readonly failing: Map<string, 'NOT_FOUND' | 'UNAVAILABLE'>;
  /** replicas in the order in which they were opened */
  readonly opened: string[];
  readonly ids: { id: string; name: string; sizeBytes: number }[];
}

/** A node n-1 that serves `db@monday`, of which n-1 and n-2 have replicas, and that is no primary. */
async function setUp(t: Test): Promise<Rig> {
  const truth = Buffer.alloc(Math.ceil(sizeBytes / blockBytes) * blockBytes);
  for (let at = 0; at < truth.length; at++) {
    const isHole = Math.floor((at % segmentBytes) / chunkBytes) === 1;
    truth[at] = isHole ? 0 : (at * 7 + Math.floor(at / 4096)) % 251;
  }
  const failing: Rig['failing'] = new Map();
  const opened: string[] = [];
  const ids = [
    { id: 's-1', name: 'sunday', sizeBytes },
    { id: 's-2', name: 'monday', sizeBytes },
  ];
  const replica = (index: number, node: number): SnapshotExport['segments'][0]['replicas'][0] => ({
    replicaId: `r-${index}-${node}`,
    nodeId: `n-${node}`,
    diskId: 'd-1',
    host: '127.0.0.1',
    port: 1,
  });
  const control = {
    volumeNames: async () => ['db', 'db@sunday', 'db@monday'],
    snapshotIds: async () => ids,
    snapshotExport: async ({ volume, snapshot }: { volume: string; snapshot: string }) => {
      const found = volume === 'db' ? ids.find(({ name }) => name === snapshot) : undefined;
      if (!found) throw new StorError('NOT_FOUND', `there is no snapshot "${volume}@${snapshot}"`);
      return {
        name: `${volume}@${snapshot}`,
        snapshotId: found.id,
        volumeId: 'v-1',
        sizeBytes,
        segmentBytes,
        // the third segment came later, by a resize
        segments: [0, 1, 2].map((index) => ({
          index,
          replicas: [2, 1].map((n) => replica(index, n)),
        })),
      };
    },
  } as unknown as MainMethods;
  const exports = new VolumeExports({
    host: {
      attach: () => Promise.reject(new Error('a snapshot needs no attachment')),
      primary: () => null,
      updateVolume: () => {},
    },
    control,
    nodeId: 'n-1',
    agentInstance: 'a',
    network: systemNetwork,
    clock: systemClock,
    logger: silentLogger,
    autoDetachMs: 30_000,
    allocatedBytes: () => new Map(),
    snapshotSource: ({ replicaId }, { segment, sizeBytes: size }) => ({
      replicaId,
      open: async () => {
        opened.push(replicaId);
        return new MemoryReader(replicaId, truth, segment * segmentBytes, size, failing);
      },
    }),
  });
  const server = await NbdServer.listen({
    targets: [{ host: '127.0.0.1', port: 0 }],
    exports,
    clock: systemClock,
    logger: silentLogger,
  });
  t.teardown(() => server.close());
  return { port: server.port, truth, failing, opened, ids };
}

/** Chunk 1 of each segment is a hole; chunk 2 has changed since `s-1`. */
class MemoryReader implements ReplicaSnapshotReader {
  readonly replicaId: string;
  readonly sizeBytes: number;
  readonly #bytes: Buffer;
  readonly #failing: Rig['failing'];

  constructor(id: string, truth: Buffer, base: number, size: number, failing: Rig['failing']) {
    this.replicaId = id;
    this.sizeBytes = size;
    this.#bytes = truth.subarray(base, base + Math.ceil(size / blockBytes) * blockBytes);
    this.#failing = failing;
  }

  #error(): StorError | null {
    const code = this.#failing.get(this.replicaId);
    return code ? new StorError(code, `${this.replicaId} is ${code}`) : null;
  }

  read: ReplicaSnapshotReader['read'] = (offset, length, target, start, done) => {
    const whole = offset % blockBytes === 0 && length % blockBytes === 0;
    if (!whole || offset + length > this.#bytes.length) throw new Error('not whole blocks inside');
    setImmediate(() => {
      const error = this.#error();
      if (!error) target.set(this.#bytes.subarray(offset, offset + length), start);
      done(error);
    });
  };

  extents: ReplicaSnapshotReader['extents'] = (offset, length, limit, done) => {
    const extents = this.#chunks(offset, length, (chunk) => chunk !== 1);
    const told = extents.map(({ flag, ...range }) => ({ ...range, allocated: flag }));
    done(this.#error(), told.slice(0, limit));
  };

  changedSince: ReplicaSnapshotReader['changedSince'] = (since, offset, length, limit, done) => {
    // taken when the volume had one segment
    const isUnknown = since === 's-0' && this.replicaId.startsWith('r-1');
    if (isUnknown) {
      done(new StorError('NOT_FOUND', `${this.replicaId} never had ${since}`), []);
      return;
    }
    if (since !== 's-1' && since !== 's-0') throw new Error(`asked for ${since}`);
    const extents = this.#chunks(offset, length, (chunk) => chunk === 2);
    const told = extents.map(({ flag, ...range }) => ({ ...range, dirty: flag }));
    done(this.#error(), told.slice(0, limit));
  };

  #chunks(
    offset: number,
    length: number,
    flagOf: (chunk: number) => boolean,
  ): { offset: number; length: number; flag: boolean }[] {
    const extents: { offset: number; length: number; flag: boolean }[] = [];
    for (let at = offset; at < offset + length;) {
      const chunk = Math.floor(at / chunkBytes);
      const end = Math.min(offset + length, (chunk + 1) * chunkBytes);
      extents.push({ offset: at, length: end - at, flag: flagOf(chunk) });
      at = end;
    }
    return extents;
  }

  repair: ReplicaSnapshotReader['repair'] = (_offset, _bytes, done) => {
    done(null);
  };

  close(): void {}
}

const target = (port: number, exportName: string, ...metaContexts: string[]): object => ({
  host: '127.0.0.1',
  port,
  exportName,
  ...(metaContexts.length > 0 ? { metaContexts } : {}),
});

t.test('a snapshot is read at any place and length, over segments, and not changed', async (t) => {
  const { port, truth, opened } = await setUp(t);
  const client = await NbdClient.connect(target(port, 'db@monday'));
  t.equal(client.sizeBytes, sizeBytes);
  const { readOnly, canMultiConn } = transmissionFlag;
  t.equal(client.flags & (readOnly | canMultiConn), readOnly | canMultiConn);
  t.same(opened, ['r-0-1', 'r-1-1'], "this node's replicas, of the segments that it had");
  const whole = await client.read(0, sizeBytes);
  t.ok(whole.equals(truth.subarray(0, sizeBytes)));
  for (const [offset, length] of [
    [1, 1],
    [4095, 2],
    [segmentBytes - 3, 6],
    [segmentBytes - 4096, 8192],
    [sizeBytes - 77, 77],
    [sizeBytes - 1, 1],
    [100, 3 * chunkBytes],
  ] as const) {
    const bytes = await client.read(offset, length);
    t.ok(bytes.equals(truth.subarray(offset, offset + length)), `${length} bytes at ${offset}`);
  }
  await t.rejects(client.write(0, Buffer.alloc(10)), { code: 'IO', errnoName: 'EPERM' });
  await client.flush();
  await client.disconnect();
  t.same(await NbdClient.list(target(port, '')), ['db', 'db@sunday', 'db@monday']);
});

t.test('holes and changes since another snapshot are told, at once', async (t) => {
  const { port } = await setUp(t);
  const sunday = 'stor:dirty-since-sunday';
  t.same(await NbdClient.listMetaContexts(target(port, 'db@monday')), [
    allocationContext,
    sunday,
    'stor:dirty-since-monday',
  ]);
  const client = await NbdClient.connect(
    target(port, 'db@monday', allocationContext, sunday, 'stor:dirty-since-never'),
  );
  t.same(client.metaContexts, [allocationContext, sunday]);
  const dirty: number[] = [];
  const holes: number[] = [];
  for (let at = 0; at < sizeBytes;) {
    const answer = await client.blockStatuses(at, sizeBytes - at);
    let next = Infinity;
    for (const [context, extents] of answer) {
      let end = at;
      for (const { offset, length, flags } of extents) {
        end = offset + length;
        for (let chunk = offset / chunkBytes; chunk < end / chunkBytes; chunk++) {
          if (context === sunday && flags === 1) dirty.push(chunk);
          if (context === allocationContext && flags === 3) holes.push(chunk);
        }
      }
      next = Math.min(next, end);
    }
    t.ok(next > at, 'each answer goes on');
    at = next;
  }
  t.same([...new Set(dirty)], [2, 6]);
  t.same([...new Set(holes)], [1, 5]);
  await client.disconnect();
});

t.test('reads tell the holes of the snapshot, and its bytes', async (t) => {
  const { port, truth } = await setUp(t);
  const raw = rawClient(t, port);
  await raw.go('db@monday', { structured: true });
  for (const [offset, length] of [
    [0, sizeBytes],
    [chunkBytes, chunkBytes],
    [chunkBytes + 5, 100],
    [chunkBytes - 4096, 8192],
  ] as const) {
    raw.request({ type: command.read, offset, length });
    const bytes = Buffer.alloc(length, 0xee);
    let holeBytes = 0;
    for (let isLast = false; !isLast;) {
      const { flags, type, body } = await raw.chunk();
      const at = Number(body.readBigUInt64BE(0)) - offset;
      if (type === chunkType.offsetHole) {
        bytes.fill(0, at, at + body.readUInt32BE(8));
        holeBytes += body.readUInt32BE(8);
      } else body.copy(bytes, at, 8);
      isLast = (flags & 1) !== 0;
    }
    t.ok(bytes.equals(truth.subarray(offset, offset + length)), `${length} bytes at ${offset}`);
    // a small one that is partly a hole is one piece
    const wanted = length === sizeBytes ? 2 * chunkBytes : length === 8192 ? 0 : length;
    t.equal(holeBytes, wanted, `holes of ${length} bytes at ${offset}`);
  }
});

t.test('what a volume has grown by since a snapshot has changed since then', async (t) => {
  const { port, ids } = await setUp(t);
  ids.unshift({ id: 's-0', name: 'saturday', sizeBytes: 3 * chunkBytes });
  const saturday = 'stor:dirty-since-saturday';
  const client = await NbdClient.connect(target(port, 'db@monday', saturday));
  const dirty = new Set<number>();
  for (let at = 0; at < sizeBytes;) {
    for (const extent of await client.blockStatus(at, sizeBytes - at, { context: saturday })) {
      const { offset, length, flags } = extent;
      at = Math.max(at, offset + length);
      for (let chunk = offset / chunkBytes; chunk < at / chunkBytes; chunk++) {
        if (flags === 1) dirty.add(chunk);
      }
    }
  }
  t.same([...dirty], [2, 4, 6]);
  await client.disconnect();
});

t.test('what is not there is refused by name', async (t) => {
  const { port } = await setUp(t);
  for (const name of ['db@never', 'no@monday', 'db@', '@monday', 'primary:db@monday']) {
    await t.rejects(NbdClient.connect(target(port, name)), {
      code: 'REFUSED',
      optionReply: optionReplyType.errUnknown,
      message: new RegExp(name.slice(name.indexOf('@'))),
    });
  }
});

t.test('a lost replica is left for another one; a deleted snapshot ends its readers', async (t) => {
  const { port, truth, failing, ids } = await setUp(t);
  const address = `nbd://127.0.0.1:${port}/db@monday`;
  const client = await NbdClient.connect({ uri: address });
  const keen = await ReconnectingNbdClient.connect({ addresses: [address], giveUpMs: 10_000 });
  failing.set('r-0-1', 'UNAVAILABLE');
  t.ok((await client.read(0, sizeBytes)).equals(truth.subarray(0, sizeBytes)));
  failing.set('r-0-1', 'NOT_FOUND');
  t.ok((await client.read(0, sizeBytes)).equals(truth.subarray(0, sizeBytes)), 'the other has it');
  ids.splice(1, 1);
  for (const node of [1, 2]) for (const i of [0, 1]) failing.set(`r-${i}-${node}`, 'NOT_FOUND');
  await t.rejects(client.read(0, 4096), { code: 'DISCONNECTED' });
  await client.closed;
  await t.rejects(keen.read(0, 4096), { code: 'REFUSED', message: /no snapshot/ });
  await keen.close();
});

t.test(
  'a snapshot that no replica has is refused, one that nobody can reach not for good',
  async (t) => {
    const { port, failing } = await setUp(t);
    const source: SnapshotSource['replicaId'][] = ['r-0-1', 'r-0-2'];
    for (const id of source) failing.set(id, 'UNAVAILABLE');
    const client = await NbdClient.connect(target(port, 'db@monday'));
    await t.rejects(client.read(0, 4096), { code: 'IO', errnoName: 'ESHUTDOWN' });
    for (const id of source) failing.delete(id);
    t.equal((await client.read(0, 4096)).length, 4096, 'the connection goes on');
    await client.disconnect();
  },
);
