import { parseArgs } from 'node:util';
import { setTimeout as delay } from 'node:timers/promises';
import { NbdClient, ReconnectingNbdClient } from 'nbd-client-js';

/**
 * main.js --uri URI [--uri URI ...] [--give-up-ms N]: writes and reads 4 KiB, one of each at a time,
 * and prints as JSON lines every request that took longer than `slowMs`, and every 50 ms how far it
 * is. Times are milliseconds since 1970 with fractions, from a clock that does not jump. It ends at
 * the first error, which it prints, or at SIGTERM.
 */
const { values } = parseArgs({
  options: {
    uri: { type: 'string', multiple: true },
    'give-up-ms': { type: 'string', default: '120000' },
  },
});
/** Requests faster than this are no stall (ms). */
const slowMs = 5;
const progressMs = 50;
/** Between two requests (ms): a client with work to do that leaves the processor to the servers. */
const pauseMs = 1;
const blockBytes = 4096;
const blocks = 2_048;

const uris = values.uri ?? [];
const giveUpMs = Number(values['give-up-ms']);
const [uri = '', ...others] = uris;
const client =
  others.length === 0
    ? await NbdClient.connect({ uri })
    : await ReconnectingNbdClient.connect({ addresses: uris, giveUpMs, firstGiveUpMs: giveUpMs });
const nowMs = (): number => performance.timeOrigin + performance.now();
const say = (line: object): boolean => process.stdout.write(`${JSON.stringify(line)}\n`);
/** when the last answered request of each kind had been sent */
const last = { write: 0, read: 0 };

async function run(kind: 'write' | 'read'): Promise<void> {
  const block = Buffer.alloc(blockBytes, 0x5a);
  for (let index = 0; ; index += 1) {
    const offset = (index % blocks) * blockBytes;
    const sentMs = nowMs();
    if (kind === 'write') await client.write(offset, block);
    // Another half: what is written is not waited for.
    else await client.read(blocks * blockBytes + offset, blockBytes);
    const answeredMs = nowMs();
    if (answeredMs - sentMs > slowMs) say({ kind, sentMs, answeredMs });
    last[kind] = sentMs;
    await delay(pauseMs);
  }
}

process.once('SIGTERM', () => process.exit(0));
setInterval(() => say({ writeMs: last.write, readMs: last.read }), progressMs);
Promise.all([run('write'), run('read')]).catch((error: unknown) => {
  say({ error: String(error), atMs: nowMs() });
  process.exit(1);
});
