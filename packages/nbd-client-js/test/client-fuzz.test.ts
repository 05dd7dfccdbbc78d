// The client against servers that break the protocol: whatever they send, every request is answered, and
// a read that succeeds has exactly the bytes that were sent for it, each of them once.
import t from 'tap';
import {
  NbdClient,
  NbdError,
  type HeaderForm,
  type NbdClock,
  type StatusExtent,
} from '../src/index.ts';
import { Dice, HostileStream, networkOf } from './support/hostile-stream.ts';
import { exportBytes, HostileServer, turn } from './support/hostile-server.ts';
import { plainAnswers, type Answer } from './support/plain-reader.ts';

/** STOR_SEEDS, STOR_MINUTES: more of them. STOR_FIRST_SEED: from another one, or that one again. */
const seeds = Number(process.env['STOR_SEEDS'] ?? 2_500);
const minutes = Number(process.env['STOR_MINUTES'] ?? 0);
const firstSeed = Number(process.env['STOR_FIRST_SEED'] ?? 1);
/** A server cannot make the client hold more than one large block status, and what was asked for (bytes). */
const maxGrowthBytes = 128 * 1024 * 1024;

const noClock: NbdClock = { monotonicMs: () => 0, after: () => () => {} };

interface Operation {
  kind: 'read' | 'status' | 'other';
  offset: number;
  length: number;
  target: Buffer;
  poison: number;
  isAborted: boolean;
  outcome: { value?: Map<string, StatusExtent[]>; error?: unknown } | null;
}

/** Each operation has a range of its own, by which its request is found. */
const rangeBytes = 1 << 16;

function issue(client: NbdClient, dice: Dice, index: number): Operation {
  const kind = dice.pick(['read', 'read', 'read', 'status', 'other'] as const);
  const offset = index * rangeBytes + dice.below(1_000);
  const length = 1 + dice.below(dice.pick([1, 600, 9_000, 60_000]));
  const poison = 1 + dice.below(255);
  const target = Buffer.alloc(kind === 'read' ? length : 0, poison);
  const operation: Operation = {
    kind: kind === 'status' && client.metaContexts.length === 0 ? 'other' : kind,
    offset,
    length,
    target,
    poison,
    isAborted: dice.oneIn(20),
    outcome: null,
  };
  const giveUp = new AbortController();
  const { signal } = giveUp;
  const run = async (): Promise<Map<string, StatusExtent[]>> => {
    if (operation.kind === 'status') return client.blockStatuses(offset, length, { signal });
    if (operation.kind === 'read') {
      await client.read(offset, length, target, { signal, df: dice.oneIn(10) });
    } else if (dice.oneIn(2)) await client.write(offset, dice.bytes(50), { signal });
    else await client.trim(offset, length, { signal });
    return new Map();
  };
  run().then(
    (value) => (operation.outcome = { value }),
    (error: unknown) => (operation.outcome = { error }),
  );
  if (operation.isAborted) giveUp.abort();
  return operation;
}

/** What is wrong with what the client made of it; null when nothing is. */
function judge(operation: Operation, answer: Answer | undefined): string | null {
  const { kind, target, poison, outcome, isAborted, offset, length } = operation;
  if (!outcome) return 'was never answered';
  if (outcome.error !== undefined) {
    if (!(outcome.error instanceof NbdError)) return 'was rejected with another error';
    const isUntouched = target.every((byte) => byte === poison);
    return isAborted && !isUntouched ? 'was changed after it was given up' : null;
  }
  if (!answer?.isDone || answer.hasError) return 'succeeded without an answer';
  if (kind === 'read') {
    if (!answer.times.every((times) => times === 1)) return 'has bytes that never came, or twice';
    return target.equals(answer.data) ? null : 'has other bytes';
  }
  for (const [name, extents] of outcome.value ?? []) {
    const sent = answer.statuses.get(name === 'base:allocation' ? 1 : 9);
    let at = offset;
    const isSame =
      sent?.length === extents.length &&
      extents.every((extent, index) => {
        const isNext = extent.offset === at;
        at += extent.length;
        return isNext && extent.length === sent[index]?.[0] && extent.flags === sent[index][1];
      });
    if (!isSame || length === 0) return `has another status in ${name}`;
  }
  return null;
}

/** Throws with what was wrong. Says whether anything was read, so that the whole is known to do something. */
async function talk(seed: number): Promise<{ reads: number; refusals: number }> {
  const dice = new Dice(seed);
  const form: HeaderForm = dice.pick(['simple', 'structured', 'extended']);
  const stream = new HostileStream();
  const server = new HostileServer(stream, form, dice, dice.pick([0, 1, 3, 8]));
  let client: NbdClient | null = null;
  let refused: unknown = null;
  NbdClient.connect({
    host: 'nowhere',
    port: 1,
    exportName: 'db',
    network: networkOf(stream),
    clock: noClock,
    metaContexts: dice.pick([[], ['base:allocation', 'stor:other']]),
    maxInFlight: dice.pick([1, 4, 64]),
  }).then(
    (connected) => (client = connected),
    (error: unknown) => (refused = error ?? 'nothing'),
  );
  await server.shake(dice.oneIn(5) ? 3 : 0);
  await turn();
  const settled = (): NbdClient | null => client;
  if (!settled()) {
    stream.hangUp();
    for (let count = 0; count < 5 && !settled() && refused === null; count++) await turn();
    if (!settled() && refused === null) throw new Error('connecting hangs');
    if (server.faults === 0) throw new Error(`a good handshake failed: ${String(refused)}`);
    return { reads: 0, refusals: 1 };
  }
  const operations = Array.from(
    { length: 1 + dice.below(exportBytes / rangeBytes - 1) },
    (_, index) => issue(settled()!, dice, index),
  );
  for (let quiet = 0; quiet < 2;) {
    await turn();
    quiet = server.answer() ? 0 : quiet + 1;
  }
  const isClean = server.faults === 0;
  const before = operations.filter(({ outcome }) => outcome === null).length;
  if (isClean && before > 0) throw new Error(`${before} requests of a good server are open`);
  stream.hangUp();
  for (let count = 0; count < 10 && operations.some(({ outcome }) => !outcome); count++)
    await turn();
  const answers = plainAnswers(Buffer.concat(server.sent), form, server.requests);
  let reads = 0;
  let refusals = 0;
  for (const operation of operations) {
    const { offset } = operation;
    const cookie = server.requests.find((request) => request.offset === offset)?.cookie ?? -1n;
    const wrong = judge(operation, answers.get(cookie));
    if (wrong) throw new Error(`the ${operation.kind} at ${offset} ${wrong} (${form} headers)`);
    if (operation.outcome?.error !== undefined) refusals += 1;
    else if (operation.kind === 'read') reads += 1;
    const code = (operation.outcome?.error as { code?: string } | undefined)?.code;
    if (isClean && code !== undefined && code !== 'IO' && code !== 'ABORTED') {
      throw new Error(`a good server was refused: ${String(operation.outcome?.error)}`);
    }
  }
  return { reads, refusals };
}

t.test('whatever a server says, nothing hangs and nothing wrong is believed', async (t) => {
  const startBytes = process.memoryUsage().arrayBuffers;
  const endMs = performance.now() + minutes * 60_000;
  let reads = 0;
  let refusals = 0;
  let growthBytes = 0;
  let seed = firstSeed;
  for (; seed < firstSeed + seeds || performance.now() < endMs; seed++) {
    try {
      const counts = await talk(seed);
      reads += counts.reads;
      refusals += counts.refusals;
    } catch (error) {
      t.fail(`seed ${seed}: ${error instanceof Error ? (error.stack ?? '') : String(error)}`);
      break;
    }
    if (seed % 64 === 0) {
      const nowBytes = process.memoryUsage().arrayBuffers;
      growthBytes = Math.max(growthBytes, nowBytes - startBytes);
    }
  }
  const cases = seed - firstSeed;
  t.comment(
    `client fuzz: ${cases} conversations from seed ${firstSeed}, ${reads} reads, ${refusals} refusals`,
  );
  t.ok(seeds < 1_000 || (reads > cases / 2 && refusals > cases / 2), 'both happen');
  t.ok(growthBytes < maxGrowthBytes, `${growthBytes} bytes more than at the start`);
});
