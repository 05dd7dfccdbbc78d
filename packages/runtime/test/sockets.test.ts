import t from 'tap';
import { connectSocket, listenSocket, type StreamSocket } from '../src/index.ts';

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

t.test(
  'what a paused reader left is offered again, and what follows it stays in order',
  async (t) => {
    const accepted: StreamSocket[] = [];
    const got: number[] = [];
    /** how many bytes the reader takes before it pauses */
    let allowed = 0;
    let offers = 0;
    const listener = await listenSocket(
      { host: '127.0.0.1', port: 0 },
      (socket) => {
        accepted.push(socket);
        socket.onData = (bytes, start, end) => {
          offers += 1;
          const taken = Math.min(allowed, end - start);
          allowed -= taken;
          for (let at = start; at < start + taken; at++) got.push(bytes[at]!);
          if (taken < end - start) socket.pause();
          return taken;
        };
      },
      { receiveBytes: 128 * 1024, maxReceiveBytes: 1024 * 1024 },
    );
    const until = async (condition: () => boolean): Promise<void> => {
      while (!condition()) await new Promise<void>((resolve) => setImmediate(resolve));
    };
    const client = await connectSocket({ host: '127.0.0.1', port: listener.port });
    const sent = 3_000_000;
    const source = Buffer.alloc(sent);
    for (let i = 0; i < sent; i++) source[i] = (i * 7 + (i >> 8)) & 0xff;
    client.write(source);
    // steps of odd sizes: some end inside what has been received, some need more
    for (let step = 1; got.length < sent; step = (step * 5 + 3) % 200_003) {
      await until(() => offers > 0);
      offers = 0;
      const before = got.length;
      allowed = step;
      accepted[0]!.resume();
      await until(() => got.length === sent || (allowed === 0 && got.length === before + step));
      if (got.length < sent) await until(() => offers > 0);
    }
    t.ok(Buffer.from(got).equals(source));
    await listener.close();
  },
);
