import { createServer } from 'node:net';
import t from 'tap';
import { reservePorts } from '../src/testing/index.ts';

t.test('ports are given once, and only where nobody listens', async (t) => {
  const given = await Promise.all(Array.from({ length: 8 }, () => reservePorts(30)));
  const all = given.flat();
  t.equal(new Set(all).size, 8 * 30, 'no port twice');
  const [first = 0] = given[0] ?? [];
  const server = createServer().listen(first, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  t.equal((server.address() as { port: number }).port, first, 'it can be used');
  await new Promise((resolve) => server.close(resolve));
  await t.rejects(reservePorts(61), /at most 60/);
});
