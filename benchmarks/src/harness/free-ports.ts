import { createServer } from 'node:net';

/** Below the range from which the kernel takes ports for outgoing connections (32768 and up). */
const lowestPort = 20_000;
const highestPort = 32_000;
const maxTries = 200;

/**
 * `count` consecutive ports of loopback on which nothing listens. They are drawn at random, so that
 * test files that run side by side do not meet; nothing reserves them after the look.
 */
export async function findFreePorts(count: number): Promise<number[]> {
  for (let tries = 0; tries < maxTries; tries += 1) {
    const first = lowestPort + Math.floor(Math.random() * (highestPort - lowestPort - count));
    const ports = Array.from({ length: count }, (_, index) => first + index);
    const free = await Promise.all(ports.map(isFree));
    if (free.every(Boolean)) return ports;
  }
  throw new Error(`found no ${count} free ports in a row in ${maxTries} tries`);
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}
