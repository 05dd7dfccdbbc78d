// Whole agents on a fake clock: a volume of several segments is rolled back while clients read, and its
// primary dies in the middle.
import { loadServices, StorError, type ApiClient } from '@stor/protocol';
import t from 'tap';
import type { NbdClient } from 'nbd-client-js';
import { ThreadCluster, type ThreadNode } from './thread-cluster.ts';

const blockBytes = 4096;
const segmentBytes = 4 * 2 ** 20;
const segments = 4;

/** Reads a block of every segment, one after another, and over each boundary; notes what it saw. */
class Reader {
  /** values, each once, in the order in which they were first read */
  readonly seen: number[] = [];
  error: Error | null = null;
  rounds = 0;
  #stopped = false;
  readonly running: Promise<void>;

  constructor(client: NbdClient) {
    this.running = this.#work(client).catch((error: unknown) => {
      this.error = error instanceof Error ? error : new Error(String(error));
    });
  }

  stop(): void {
    this.#stopped = true;
  }

  async #work(client: NbdClient): Promise<void> {
    while (!this.#stopped) {
      for (let boundary = 1; boundary < segments; boundary++) {
        const bytes = await client.read(boundary * segmentBytes - blockBytes, 2 * blockBytes);
        for (const value of [bytes[0] ?? 0, bytes[blockBytes] ?? 0]) this.#note(value);
      }
      this.rounds += 1;
    }
  }

  #note(value: number): void {
    if (this.seen.at(-1) === value) return;
    // what was seen before comes back: some of the volume is old and some is new
    if (this.seen.includes(value))
      throw new Error(`${value} is read after ${this.seen.join(', ')}`);
    this.seen.push(value);
  }
}

async function fill(client: NbdClient, value: number): Promise<void> {
  for (let boundary = 1; boundary < segments; boundary++) {
    const bytes = Buffer.alloc(2 * blockBytes, value);
    await client.write(boundary * segmentBytes - blockBytes, bytes);
  }
  await client.flush();
}

async function prepare(seed: number): Promise<{ cluster: ThreadCluster; api: ApiClient }> {
  const cluster = new ThreadCluster(seed, await loadServices());
  await Promise.all(cluster.nodes.map((node) => cluster.start(node)));
  const api = cluster.api();
  await cluster.until(async () => {
    const { disks } = await cluster.during(api.listDisks({}));
    return disks.length === 3;
  });
  const sizeBytes = segments * segmentBytes;
  const policy = { shared: true };
  const volume = { name: 'db', sizeBytes, segmentBytes, replicas: 3, labels: {}, policy };
  await cluster.during(api.createVolume(volume));
  return { cluster, api };
}

async function passes(cluster: ThreadCluster, ms: number): Promise<void> {
  const endMs = cluster.clock.monotonicMs() + ms;
  await cluster.until(() => cluster.clock.monotonicMs() >= endMs);
}

async function isOver(cluster: ThreadCluster, api: ApiClient): Promise<boolean> {
  const volume = await cluster.during(api.getVolume({ name: 'db' }).catch(() => null));
  return volume !== null && volume.status.health === 'healthy';
}

/** From now on a segment of the volume does not get on with a rollback on this node. */
function stall(node: ThreadNode, segment: number): void {
  const stores = node.lanes.flatMap(({ lane }) => lane.stores);
  const replicas = stores.flatMap((store) => store.replicas());
  for (const replica of replicas) if (replica.segment === segment) replica.rollback = () => {};
}

/** When the primary dies after the order was given (ms); null: it lives. */
const cases = [
  { killAfterMs: null },
  { killAfterMs: 30 },
  { killAfterMs: 40 },
  { killAfterMs: 60 },
  { killAfterMs: 300, stalled: 2 },
  { killAfterMs: 300, stalled: 0 },
];
for (const [at, { killAfterMs, stalled }] of cases.entries()) {
  const middle = stalled === undefined ? '' : `, segment ${stalled} being late`;
  const when = killAfterMs === null ? 'lives' : `dies after ${killAfterMs} ms${middle}`;
  t.test(`nobody reads some of the old and some of the new: the primary ${when}`, async (t) => {
    const { cluster, api } = await prepare(20 + at);
    const primary: ThreadNode = cluster.node(1);
    await cluster.during(api.attachVolume({ name: 'db', node: 'n2' }));
    const client = await cluster.connect(cluster.node(2), 'db');
    await cluster.during(fill(client, 1));
    const taken = { volume: 'db', selector: {}, name: 'monday', labels: {} };
    await cluster.during(api.createSnapshot(taken));
    await cluster.during(fill(client, 2));
    const reader = new Reader(client);
    await cluster.until(() => reader.rounds > 3);
    if (stalled !== undefined) stall(primary, stalled);
    const request = { name: 'db', snapshot: 'monday', force: true, safetySnapshot: false };
    const rolling = api.rollbackVolume(request).then(
      () => 'done',
      (error: unknown) => StorError.from(error).message,
    );
    if (killAfterMs !== null) {
      await passes(cluster, killAfterMs);
      cluster.kill(primary);
    }
    const answer = await cluster.during(rolling);
    t.comment(answer);
    if (killAfterMs !== null) await cluster.start(primary);
    await cluster.until(() => isOver(cluster, api));
    const rounds = reader.rounds;
    await cluster.until(() => reader.rounds > rounds + 3 || reader.error !== null);
    t.equal(reader.error, null);
    const expected = answer === 'done' || answer.includes('not finished') ? [2, 1] : reader.seen;
    t.same(reader.seen, expected);
    reader.stop();
    await cluster.during(reader.running);
    await cluster.during(api.close());
    await cluster.close();
  });
}
