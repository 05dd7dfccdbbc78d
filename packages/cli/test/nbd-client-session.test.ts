import { once } from 'node:events';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import { openNbdSession } from '../src/nbd-client-session.ts';

// The data path of the session runs against real agents in test/e2e; here are its errors.

async function serve(t: Test, onSocket: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    onSocket(socket);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `nbd://127.0.0.1:${(server.address() as AddressInfo).port}/db`;
}

t.test('nobody there is UNAVAILABLE, so that another node is tried', async (t) => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  await t.rejects(openNbdSession(`nbd://127.0.0.1:${port}/db`, {}), { code: 'UNAVAILABLE' });
  const hangingUp = await serve(t, (socket) => socket.end());
  await t.rejects(openNbdSession(hangingUp, {}), { code: 'UNAVAILABLE' });
});

t.test('a server of another protocol is PROTOCOL, a bad address INVALID_ARGUMENT', async (t) => {
  const http = await serve(t, (socket) => socket.write('HTTP/1.1 400 Bad Request\r\n\r\n'));
  await t.rejects(openNbdSession(http, {}), { code: 'PROTOCOL' });
  await t.rejects(openNbdSession('http://127.0.0.1/db', {}), { code: 'INVALID_ARGUMENT' });
});

t.test('Ctrl-C ends a handshake that nobody answers', async (t) => {
  const controller = new AbortController();
  const silent = await serve(t, () => controller.abort());
  await t.rejects(openNbdSession(silent, { signal: controller.signal }), { code: 'ABORTED' });
});
