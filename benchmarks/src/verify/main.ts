import { parseArgs } from 'node:util';
import { NbdClient, ReconnectingNbdClient } from 'nbd-client-js';
import { VerifyingWriter } from './verifying-writer.ts';
import { verifyImage, verifyThroughClient } from './verify-volume.ts';

const usage = `usage:
  main.js write --uri URI [--uri URI ...] --log FILE --length BYTES [--offset BYTES] [--seed N]
                [--depth N] [--connections N] [--writes N] [--flush-every N] [--rate N]
                [--read-share PERCENT] [--give-up-ms N]
  main.js verify --log FILE (--uri URI | --image FILE)
Prints one JSON object. Exit code 0: all well; 10: contents differ from what the log allows.
With several URIs of one export 'write' reconnects to any of them when its connection breaks.
'write' ends at SIGTERM, after --writes, or when the connection breaks; it prints a line
{"acknowledged":N,"acknowledgedSinceFlush":N} every 100 ms on standard error.`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    uri: { type: 'string', multiple: true },
    log: { type: 'string' },
    image: { type: 'string' },
    offset: { type: 'string', default: '0' },
    length: { type: 'string' },
    seed: { type: 'string', default: '1' },
    depth: { type: 'string', default: '16' },
    connections: { type: 'string', default: '1' },
    writes: { type: 'string', default: 'Infinity' },
    'flush-every': { type: 'string', default: '0' },
    rate: { type: 'string', default: '0' },
    'read-share': { type: 'string', default: '0' },
    'give-up-ms': { type: 'string', default: '60000' },
  },
});

function connect(uris: readonly string[]): Promise<NbdClient | ReconnectingNbdClient> {
  const [uri = '', ...others] = uris;
  if (others.length === 0) return NbdClient.connect({ uri });
  const giveUpMs = Number(values['give-up-ms']);
  return ReconnectingNbdClient.connect({ addresses: uris, giveUpMs, firstGiveUpMs: giveUpMs });
}

async function write(uris: readonly string[], logPath: string, length: number): Promise<number> {
  const stop = new AbortController();
  process.once('SIGTERM', () => stop.abort());
  const clients = await Promise.all(
    Array.from({ length: Number(values.connections) }, () => connect(uris)),
  );
  const writer = new VerifyingWriter({
    clients,
    logPath,
    offset: Number(values.offset),
    length,
    seed: Number(values.seed),
    depth: Number(values.depth),
    writes: Number(values.writes),
    flushEvery: Number(values['flush-every']),
    rate: Number(values.rate),
    readShare: Number(values['read-share']) / 100,
    signal: stop.signal,
  });
  const progress = setInterval(() => {
    process.stderr.write(`${JSON.stringify(writer.progress())}\n`);
  }, 100);
  const summary = await writer.run();
  clearInterval(progress);
  await Promise.all(clients.map((client) => client.close()));
  process.stdout.write(`${JSON.stringify(summary)}\n`);
  return 0;
}

async function verify(logPath: string): Promise<number> {
  let result;
  if (values.image !== undefined) {
    result = await verifyImage(logPath, values.image);
  } else {
    const client = await NbdClient.connect({ uri: values.uri?.[0] ?? '' });
    result = await verifyThroughClient(logPath, client);
    await client.disconnect();
  }
  process.stdout.write(`${JSON.stringify(result)}\n`);
  return result.wrong + result.torn === 0 ? 0 : 10;
}

async function main(): Promise<number> {
  const [verb] = positionals;
  const { uri, log, length, image } = values;
  if (verb === 'write' && uri && log && length) return write(uri, log, Number(length));
  if (verb === 'verify' && log && (uri ?? image)) return verify(log);
  process.stderr.write(`${usage}\n`);
  return 2;
}

process.exitCode = await main();
