import { once } from 'node:events';
import net from 'node:net';
import { createRequire } from 'node:module';
import type koffi from 'koffi';
import t from 'tap';
import { setUserTimeout } from '../src/user-timeout.ts';

t.test('the kernel is told how long data may stay unacknowledged', async (t) => {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  const socket = net.connect(port, '127.0.0.1');
  await once(socket, 'connect');
  t.equal(setUserTimeout(socket, 12_345), true);
  const ffi = createRequire(import.meta.url)('koffi') as typeof koffi;
  const getOption = ffi
    .load('libc.so.6')
    .func(
      'int getsockopt(int fd, int level, int name, _Out_ void *value, _Inout_ uint32_t *length)',
    );
  const value = Buffer.alloc(4);
  const { _handle: handle } = socket as unknown as { _handle: { fd: number } };
  t.equal(getOption(handle.fd, 6, 18, value, [4]), 0);
  t.equal(value.readInt32LE(), 12_345);
  socket.destroy();
  t.equal(setUserTimeout(socket, 1), false);
  server.close();
});
