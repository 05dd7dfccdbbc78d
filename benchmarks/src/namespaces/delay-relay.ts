import { createServer, connect, type Socket } from 'node:net';
import { parseArgs } from 'node:util';

/**
 * A TCP relay that hands on every byte a fixed time later, both ways. Kernels without netem have no
 * other way to make a link slow.
 */
const { values } = parseArgs({
  options: {
    listen: { type: 'string' },
    host: { type: 'string' },
    port: { type: 'string' },
    'delay-ms': { type: 'string', default: '50' },
  },
});
const delayMs = Number(values['delay-ms']);
/** Bytes held for one direction; above it the sender is not read from. */
const maxHeldBytes = 4 * 1024 * 1024;

/** Bytes arrive at `to` in order, each `delayMs` after it came from `from`. */
function pass(from: Socket, to: Socket): void {
  let held = 0;
  from.on('data', (chunk: Buffer) => {
    held += chunk.length;
    if (held > maxHeldBytes) from.pause();
    setTimeout(() => {
      held -= chunk.length;
      if (!to.destroyed) to.write(chunk);
      if (held <= maxHeldBytes) from.resume();
    }, delayMs);
  });
  from.on('error', () => undefined);
  from.on('end', () => setTimeout(() => to.end(), delayMs));
  from.on('close', () => setTimeout(() => to.destroy(), delayMs));
}

const server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
  const target = connect({ host: values.host ?? '', port: Number(values.port), noDelay: true });
  pass(client, target);
  pass(target, client);
});
server.listen(Number(values.listen), '0.0.0.0', () => process.stdout.write('ready\n'));
