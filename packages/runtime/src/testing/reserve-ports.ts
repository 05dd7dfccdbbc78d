import { createServer, type Server } from 'node:net';

/** Below the range from which the kernel takes ports for outgoing connections (32768 and up). */
const lowestPort = 20_000;
const slots = 200;
/** the most that one call can get */
const portsPerSlot = 60;

/**
 * `count` consecutive ports of loopback on which nothing listens, for this process alone: other
 * processes that ask here do not get them while it lives. An abstract UNIX socket of the slot's name
 * is the reservation, so a process that is killed leaves none behind.
 */
export async function reservePorts(count: number): Promise<number[]> {
  if (count > portsPerSlot)
    throw new Error(`at most ${portsPerSlot} ports can be reserved at once`);
  const start = Math.floor(Math.random() * slots);
  for (let i = 0; i < slots; i += 1) {
    const slot = (start + i) % slots;
    const reservation = await listen({ path: `\0stor-test-ports-${slot}` });
    if (!reservation) continue;
    const first = lowestPort + slot * portsPerSlot;
    const ports = Array.from({ length: count }, (_, index) => first + index);
    const free = await Promise.all(ports.map(isFree));
    if (free.every(Boolean)) {
      reservation.unref();
      return ports;
    }
    reservation.close();
  }
  throw new Error(`found no ${count} free ports in a row between ${lowestPort} and 32000`);
}

async function isFree(port: number): Promise<boolean> {
  const server = await listen({ host: '127.0.0.1', port });
  if (!server) return false;
  await new Promise((closed) => server.close(closed));
  return true;
}

/** Null when somebody listens there. */
function listen(target: { path: string } | { host: string; port: number }): Promise<Server | null> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => {
      resolve(null);
    });
    server.listen(target, () => {
      resolve(server);
    });
  });
}
