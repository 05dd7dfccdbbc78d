import fc from 'fast-check';
import t from 'tap';
import { NbdError, ReconnectingNbdClient, command, errno } from '../src/index.ts';
import { FakeDisk, FakeNbdServer } from './support/fake-nbd-server.ts';
import type { FakeConnection, FakeRequest } from './support/fake-nbd-server.ts';
import { historyFault } from './support/register-history.ts';
import type { RegisterOperation } from './support/register-history.ts';

const blockBytes = 64;
const blocks = 6;

/** Deterministic chance (mulberry32). */
function chanceOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

type Counts = Record<string, number>;

/**
 * Three servers of one disk, of which one at a time grants the export. Requests are done in any
 * order and any time later; connections break before, between and after doing and answering. As a
 * server must, it finishes or forgets what an old connection sent before it grants a new one.
 */
class FaultyCluster {
  readonly disk = new FakeDisk(blocks * blockBytes);
  readonly servers: FakeNbdServer[] = [];
  readonly counts: Counts;
  faults: boolean = true;
  conflicts = 0;
  #holder = 0;
  #refusals = 0;
  #pending: FakeRequest[] = [];
  /** pending, and done already: the answer */
  readonly #results = new Map<FakeRequest, Buffer>();
  readonly #chance: () => number;

  constructor(chance: () => number, counts: Counts) {
    this.#chance = chance;
    this.counts = counts;
    for (let n = 0; n < 3; n += 1) {
      const server = new FakeNbdServer(this.disk);
      server.meeting = () => {
        if (n !== this.#holder || this.#refusals-- > 0) return 'policy';
        return 'grant';
      };
      server.onRequest = (request) => this.#arrive(request);
      server.onGone = (connection) => this.#gone(connection);
      server.onGranting = () => this.#endOldConnections();
      this.servers.push(server);
    }
  }

  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  #arrive(request: FakeRequest): void {
    // a read that its caller gave up may still be here: nobody sees what it returns
    if (request.type === command.read) return this.#queue(request);
    for (const other of this.#pending) {
      const overlaps =
        request.offset < other.offset + other.length &&
        other.offset < request.offset + request.length;
      if (overlaps && other.type !== command.read) this.conflicts += 1;
    }
    this.#queue(request);
  }

  #queue(request: FakeRequest): void {
    this.#pending.push(request);
    setImmediate(() => this.#doOne());
  }

  #doOne(): void {
    const at = Math.floor(this.#chance() * this.#pending.length);
    const request = this.#pending[at];
    if (!request) return;
    const { server, socket } = request.connection;
    const fate = this.faults ? this.#chance() : 1;
    if (fate < 0.01) {
      this.#count('dropped before');
      this.#break(request.connection);
      return;
    }
    this.#pending.splice(at, 1);
    if (fate < 0.02) {
      this.#count('dropped after');
      this.#result(request);
      this.#break(request.connection);
    } else if (fate < 0.03) {
      this.#count('shut down');
      if (this.#chance() < 0.5) this.#result(request);
      server.fail(request, errno.ESHUTDOWN);
      this.#move();
    } else if (fate < 0.035) {
      this.#count('half an answer');
      this.#result(request);
      socket.write(Buffer.alloc(3, 0x67));
      this.#break(request.connection);
    } else if (fate < 0.6) {
      // done now, answered later
      this.#results.set(request, this.#result(request));
      this.#pending.push(request);
      setImmediate(() => this.#doOne());
    } else {
      request.connection.reply(request, 0, this.#result(request));
    }
  }

  #result(request: FakeRequest): Buffer {
    return this.#results.get(request) ?? this.disk.apply(request);
  }

  #break(connection: FakeConnection): void {
    connection.socket.destroy();
    if (this.#chance() < 0.7) this.#move();
  }

  #move(): void {
    this.#holder = Math.floor(this.#chance() * 3);
    this.#refusals = Math.floor(this.#chance() * 3);
  }

  /** The only client asks anew: whatever it sent before is done or forgotten first. */
  #endOldConnections(): void {
    for (const { connection } of [...this.#pending]) {
      connection.socket.destroy();
      this.#gone(connection);
    }
  }

  #gone(connection: FakeConnection): void {
    const left = this.#pending.filter((request) => request.connection === connection);
    this.#pending = this.#pending.filter((request) => request.connection !== connection);
    for (const request of left) {
      if (this.#results.has(request) || this.#chance() < 0.5) continue;
      this.#count('applied after the break');
      this.disk.apply(request);
    }
  }
}

/** Random requests from several callers at once; returns what each block went through. */
async function workload(
  client: ReconnectingNbdClient,
  cluster: FaultyCluster,
  chance: () => number,
): Promise<RegisterOperation[][]> {
  const histories: RegisterOperation[][] = Array.from({ length: blocks }, () => []);
  let now = 0;
  let nextValue = 1;
  const one = async (): Promise<void> => {
    const kind = chance();
    const first = Math.floor(chance() * blocks);
    const count = Math.min(blocks - first, 1 + Math.floor(chance() * 4));
    const controller = new AbortController();
    if (chance() < 0.04) setTimeout(() => controller.abort(), chance() * 3).unref();
    const { signal } = controller;
    if (kind < 0.05) {
      const before = cluster.disk.flushes;
      await client.flush({ signal });
      if (cluster.disk.flushes === before) throw new Error('a flush that no server got');
      return;
    }
    const invokedAt = now++;
    if (kind < 0.55) {
      const bytes = Buffer.alloc(count * blockBytes);
      const operations: RegisterOperation[] = [];
      for (let n = 0; n < count; n += 1) {
        const value = nextValue++;
        bytes.fill(
          new Uint8Array(Uint32Array.of(value).buffer),
          n * blockBytes,
          (n + 1) * blockBytes,
        );
        operations.push({ kind: 'write', value, invokedAt, answeredAt: Infinity });
        histories[first + n]!.push(operations[n]!);
      }
      await client.write(first * blockBytes, bytes, { signal });
      for (const operation of operations) operation.answeredAt = now;
      now += 1;
      return;
    }
    const bytes = await client.read(first * blockBytes, count * blockBytes, undefined, { signal });
    const answeredAt = now++;
    for (let n = 0; n < count; n += 1) {
      const value = bytes.readUInt32LE(n * blockBytes);
      histories[first + n]!.push({ kind: 'read', value, invokedAt, answeredAt });
    }
  };
  const caller = async (): Promise<void> => {
    for (let n = 0; n < 25; n += 1) {
      try {
        await one();
      } catch (error) {
        if (!(error instanceof NbdError) || error.code !== 'ABORTED') throw error;
        cluster.counts['aborted'] = (cluster.counts['aborted'] ?? 0) + 1;
      }
    }
  };
  await Promise.all(Array.from({ length: 10 }, caller));
  cluster.faults = false;
  const all = await client.read(0, blocks * blockBytes);
  for (let n = 0; n < blocks; n += 1) {
    const value = all.readUInt32LE(n * blockBytes);
    histories[n]!.push({ kind: 'read', value, invokedAt: now, answeredAt: now + 1 });
  }
  return histories;
}

t.test('contents are linearizable, whatever breaks and whenever', async (t) => {
  const counts: Counts = {};
  let reconnects = 0;
  await fc.assert(
    fc.asyncProperty(fc.integer(), async (seed) => {
      const chance = chanceOf(seed);
      const cluster = new FaultyCluster(chance, counts);
      await Promise.all(cluster.servers.map((server) => server.listen()));
      const client = await ReconnectingNbdClient.connect({
        addresses: cluster.servers.map((server) => server.address),
        exportName: 'db',
        maxInFlight: 6,
        backoffMinMs: 1,
        backoffMaxMs: 2,
        chance,
      });
      try {
        const histories = await workload(client, cluster, chance);
        const faults = histories.map(historyFault).filter((fault) => fault !== null);
        if (faults.length > 0) throw new Error(faults.join('\n'));
        if (cluster.conflicts > 0) throw new Error('two requests that conflict were out together');
      } finally {
        await client.disconnect();
        for (const server of cluster.servers) {
          reconnects += server.granted;
          await server.close();
        }
      }
    }),
    { numRuns: 60 },
  );
  t.comment(JSON.stringify({ ...counts, reconnects }));
  t.ok(reconnects > 100);
  for (const what of [
    'dropped before',
    'dropped after',
    'shut down',
    'half an answer',
    'applied after the break',
    'aborted',
  ]) {
    t.ok((counts[what] ?? 0) > 0, what);
  }
});

t.test('the check of histories finds what it must', async (t) => {
  const op = (kind: 'write' | 'read', value: number, invokedAt: number, answeredAt: number) => ({
    kind,
    value,
    invokedAt,
    answeredAt,
  });
  const w1 = op('write', 1, 0, 1);
  const w2 = op('write', 2, 2, 3);
  t.equal(historyFault([w1, w2, op('read', 2, 4, 5)]), null);
  t.match(historyFault([w1, w2, op('read', 1, 4, 5)]), /1 was there/, 'an old write came back');
  t.match(historyFault([w1, op('read', 0, 2, 3)]), /was there/, 'a write was lost');
  t.match(historyFault([op('read', 7, 0, 1)]), /nobody wrote/);
  t.match(historyFault([op('read', 1, 0, 1), op('write', 1, 2, 3)]), /before it was written/);
  const open = op('write', 1, 0, Infinity);
  t.equal(historyFault([open, op('read', 0, 1, 2), op('read', 1, 3, 4)]), null);
  t.match(historyFault([open, op('read', 1, 1, 2), op('read', 0, 3, 4)]), /was there/);
  t.match(
    historyFault([open, w2, op('read', 2, 4, 5), op('read', 1, 6, 7), op('read', 2, 8, 9)]),
    /was there/,
    'a write that was never answered came and went',
  );
});
