import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { defaultReceive, systemNetwork, type StreamSocket } from '../src/index.ts';

const sentBytes = 200 * 1024;

/** How much of `sentBytes` the kernel takes at once from who answers over a UNIX socket. */
async function takenAtOnce(path: string, sendBytes: number | undefined): Promise<number> {
  let taken = -1;
  const accepted = (socket: StreamSocket): void => {
    socket.onData = (_bytes, start, end) => {
      socket.write(Buffer.alloc(sentBytes));
      taken = sentBytes - socket.pendingBytes;
      return end - start;
    };
  };
  const options = { ...defaultReceive, ...(sendBytes === undefined ? {} : { sendBytes }) };
  const listener = await systemNetwork.listen({ path }, accepted, options);
  const client = await systemNetwork.connect({ path });
  let got = 0;
  const all = new Promise<void>((resolve) => {
    client.onData = (_bytes, start, end) => {
      got += end - start;
      if (got === sentBytes) resolve();
      return end - start;
    };
  });
  client.write(Buffer.of(1));
  await all;
  client.destroy();
  await listener.close();
  return taken;
}

t.test('a UNIX socket takes as much at once as it was told to', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'stor-send-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  const path = join(dir, 'socket');
  const little = await takenAtOnce(path, 16 * 1024);
  const much = await takenAtOnce(path, sentBytes);
  t.ok(little < sentBytes, `${little} bytes of ${sentBytes} with a small buffer`);
  t.ok(much > little, `${much} bytes with a large one`);
});
