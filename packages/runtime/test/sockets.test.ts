import t from 'tap';
import { connectSocket, listenSocket } from '../src/index.ts';

t.test(
  'bytes arrive whole and in order however they are cut, and large messages grow the buffer',
  async (t) => {
    const got: Buffer[] = [];
    let total = 0;
    const sent = 5_000_000;
    let finished: () => void = () => {};
    const done = new Promise<void>((resolve) => (finished = resolve));
    const listener = await listenSocket(
      { host: '127.0.0.1', port: 0 },
      (socket) => {
        socket.onData = (bytes, start, end) => {
          // takes only whole messages of 1,000,000 bytes
          const whole = Math.floor((end - start) / 1_000_000) * 1_000_000;
          if (whole > 0) got.push(Buffer.from(bytes.subarray(start, start + whole)));
          total += whole;
          if (total === sent) finished();
          return whole;
        };
      },
      { receiveBytes: 256 * 1024, maxReceiveBytes: 4 * 1024 * 1024 },
    );
    const client = await connectSocket({ host: '127.0.0.1', port: listener.port });
    const source = Buffer.alloc(sent);
    for (let i = 0; i < sent; i++) source[i] = (i * 31) & 0xff;
    for (let at = 0; at < sent; at += 77_777) client.write(source.subarray(at, at + 77_777));
    await done;
    t.ok(Buffer.concat(got).equals(source));
    const closed = new Promise<void>((resolve) => (client.onClose = () => resolve()));
    await listener.close();
    await closed;
  },
);

t.test('a message over the limit ends the connection', async (t) => {
  let closed: () => void = () => {};
  const done = new Promise<void>((resolve) => (closed = resolve));
  const listener = await listenSocket(
    { host: '127.0.0.1', port: 0 },
    (socket) => {
      socket.onData = () => 0;
      socket.onClose = () => closed();
    },
    { receiveBytes: 128 * 1024, maxReceiveBytes: 256 * 1024 },
  );
  const client = await connectSocket({ host: '127.0.0.1', port: listener.port });
  client.write(Buffer.alloc(1024 * 1024));
  await done;
  await listener.close();
  t.pass('closed');
});
