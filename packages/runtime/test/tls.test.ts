import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import {
  connectSocket,
  listenSocket,
  tlsServer,
  type StreamSocket,
  type TlsClient,
  type TlsServer,
  type TlsServerCredentials,
  type TlsSession,
} from '../src/index.ts';
import { makeTestCertificates, missingOpenssl } from '../src/testing/index.ts';

const skip = missingOpenssl();
const root = mkdtempSync(join(tmpdir(), 'stor-tls-'));
t.teardown(() => rmSync(root, { recursive: true }));
if (skip === false) {
  makeTestCertificates(join(root, 'ours'));
  makeTestCertificates(join(root, 'theirs'), 'mallory');
}
const pem = (name: string, folder = 'ours'): string =>
  readFileSync(join(root, folder, `${name}.pem`), 'utf8');
const psk = Buffer.from('00112233445566778899aabbccddeeff', 'hex');

function certificates(more: Partial<TlsServerCredentials> = {}): TlsServer {
  return tlsServer({
    cert: pem('server-cert'),
    key: pem('server-key'),
    ca: pem('ca-cert'),
    demandsCertificate: true,
    ...more,
  });
}
const alice = (more: Partial<TlsClient> = {}): TlsClient => ({
  side: 'client',
  serverName: 'localhost',
  verifyPeer: true,
  ca: pem('ca-cert'),
  cert: pem('client-cert'),
  key: pem('client-key'),
  ...more,
});
const byKey = (key: Uint8Array = psk, identity = 'alice'): TlsClient => ({
  side: 'client',
  serverName: 'localhost',
  verifyPeer: true,
  psk: { identity, key },
});
const keys = new Map([['alice', psk]]);
const keyServer = (): TlsServer => tlsServer({ psk: keys, demandsCertificate: false });

interface Pair {
  server: StreamSocket;
  client: StreamSocket;
  /** the sessions, or why there is none */
  agreed: [PromiseSettledResult<TlsSession>, PromiseSettledResult<TlsSession>];
}

/** The client sends one byte in the clear, which the server takes for the start of TLS. */
async function pair(t: Test, server: TlsServer, client: TlsClient): Promise<Pair> {
  let accepted: (pair: { socket: StreamSocket; session: Promise<TlsSession> }) => void;
  const arrived = new Promise<{ socket: StreamSocket; session: Promise<TlsSession> }>(
    (resolve) => (accepted = resolve),
  );
  const listener = await listenSocket({ host: '127.0.0.1', port: 0 }, (socket) => {
    socket.onData = (_bytes, start) => {
      socket.pause();
      socket.write(Buffer.from('!'), () => {
        const session = socket.startTls(server);
        session.catch(() => {});
        accepted({ socket, session });
      });
      return 1 + start - start;
    };
  });
  t.teardown(() => listener.close());
  const near = await connectSocket({ host: '127.0.0.1', port: listener.port });
  t.teardown(() => near.destroy());
  await new Promise<void>((resolve) => {
    near.onData = (_bytes, start, end) => {
      near.pause();
      resolve();
      return end - start;
    };
    near.write(Buffer.from('?'));
  });
  const started = near.startTls(client);
  started.catch(() => {});
  const far = await arrived;
  const agreed = await Promise.allSettled([far.session, started]);
  return { server: far.socket, client: near, agreed };
}

const closeOf = (socket: StreamSocket): Promise<Error | null> =>
  new Promise((resolve) => {
    if (socket.destroyed) resolve(null);
    socket.onClose = resolve;
  });

t.test('both sides know each other by certificates or by a pre-shared key', { skip }, async (t) => {
  const byCertificate = await pair(t, certificates(), alice());
  const [atServer, atClient] = byCertificate.agreed;
  t.match(atServer, {
    value: { protocol: 'TLSv1.3', peer: { kind: 'certificate', subject: 'O=Test, CN=alice' } },
  });
  t.match(atClient, { value: { peer: { kind: 'certificate', subject: 'CN=localhost' } } });
  const keyed = await pair(t, certificates({ psk: keys }), byKey());
  t.match(keyed.agreed[0], { value: { peer: { kind: 'psk', name: 'alice' } } });
  t.match((await pair(t, keyServer(), byKey())).agreed[0], {
    value: { peer: { kind: 'psk', name: 'alice' } },
  });
  const anyone = await pair(
    t,
    certificates({ demandsCertificate: false }),
    alice({ cert: undefined, key: undefined }),
  );
  t.match(anyone.agreed[0], { value: { peer: null } });
});

t.test('who is not vouched for is not let in, whichever side it is', { skip }, async (t) => {
  const other = { cert: pem('client-cert', 'theirs'), key: pem('client-key', 'theirs') };
  const refusedByServer: [string, TlsServer, TlsClient][] = [
    ['no certificate', certificates(), alice({ cert: undefined, key: undefined })],
    ['of another CA', certificates(), alice(other)],
    [
      "a server's certificate",
      certificates(),
      alice({ cert: pem('server-cert'), key: pem('server-key') }),
    ],
    ['another key', keyServer(), byKey(Buffer.alloc(16))],
    ['another name', keyServer(), byKey(psk, 'bob')],
    ['a key instead of a certificate', certificates(), byKey()],
    ['a certificate instead of a key', keyServer(), alice()],
  ];
  for (const [what, server, client] of refusedByServer) {
    const { agreed, server: socket } = await pair(t, server, client);
    t.equal(agreed[0].status, 'rejected', what);
    await closeOf(socket);
    t.ok(socket.destroyed);
  }
  const theirs = tlsServer({
    cert: pem('server-cert', 'theirs'),
    key: pem('server-key', 'theirs'),
    demandsCertificate: false,
  });
  const refusedByClient: [string, TlsServer, TlsClient, RegExp][] = [
    ['another CA', theirs, alice(), /self.signed certificate in certificate chain|unable to/],
    ['another name', certificates(), alice({ serverName: 'example.org' }), /altnames/],
    ['another address', certificates(), alice({ serverName: '127.0.0.2' }), /altnames/],
  ];
  for (const [what, server, client, why] of refusedByClient) {
    const [, atClient] = (await pair(t, server, client)).agreed;
    t.match(atClient, { status: 'rejected', reason: { message: why } }, what);
  }
  const trusting = await pair(t, theirs, alice({ verifyPeer: false }));
  t.equal(trusting.agreed[1].status, 'fulfilled', 'unless it is told to trust anybody');
});

t.test('a paused reader stops the sender, and everything comes in order', { skip }, async (t) => {
  const { server, client } = await pair(t, certificates(), alice());
  const sent = Buffer.alloc(24 * 1024 * 1024);
  for (let at = 0; at < sent.length; at += 4) sent.writeUInt32LE((at * 2654435761) >>> 0, at);
  let got = 0;
  let wrong = 0;
  let finished: () => void = () => {};
  const done = new Promise<void>((resolve) => (finished = resolve));
  const message = 1_000_000;
  server.onData = (bytes, start, end) => {
    // whole messages only, and a pause after each of them
    if (end - start < message && got + (end - start) < sent.length) return 0;
    const length = Math.min(message, end - start);
    if (!bytes.subarray(start, start + length).equals(sent.subarray(got, got + length))) wrong += 1;
    got += length;
    if (got === sent.length) finished();
    server.pause();
    setImmediate(() => server.resume());
    return length;
  };
  let drains = 0;
  client.onDrain = () => (drains += 1);
  // nobody reads yet: what the kernel and TLS do not take stays here
  for (let at = 0; at < sent.length; at += 65_536) client.write(sent.subarray(at, at + 65_536));
  for (let turn = 0; turn < 200; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  t.equal(got, 0);
  t.ok(client.pendingBytes > sent.length / 2, `${client.pendingBytes} bytes wait`);
  server.resume();
  await done;
  t.equal(wrong, 0);
  t.ok(drains > 0);
  const ended = closeOf(server);
  client.end();
  t.equal(await ended, null, 'an orderly end is no error');
  client.destroy();
  client.destroy();
});

t.test('bytes that came in the clear are none of TLS', { skip }, async (t) => {
  let accepted: (socket: StreamSocket) => void;
  const arrived = new Promise<StreamSocket>((resolve) => (accepted = resolve));
  const listener = await listenSocket({ host: '127.0.0.1', port: 0 }, (socket) => {
    socket.onData = (_bytes, start, end) => {
      if (end - start < 3) return 0;
      socket.pause();
      setImmediate(() => accepted(socket));
      // the last two are left
      return 1;
    };
  });
  t.teardown(() => listener.close());
  const raw = net.connect(listener.port, '127.0.0.1');
  raw.on('error', () => {});
  raw.write('abc');
  const socket = await arrived;
  await t.rejects(socket.startTls(keyServer()), /in the clear are left over/);
  t.ok(socket.destroyed);
  await t.rejects(socket.startTls(keyServer()));
});

t.test('a peer that goes in the middle of the handshake, and bad PEM', { skip }, async (t) => {
  let accepted: (socket: StreamSocket) => void;
  const arrived = new Promise<StreamSocket>((resolve) => (accepted = resolve));
  const listener = await listenSocket({ host: '127.0.0.1', port: 0 }, (socket) => {
    socket.pause();
    accepted(socket);
  });
  t.teardown(() => listener.close());
  const raw = net.connect(listener.port, '127.0.0.1');
  const session = (await arrived).startTls(keyServer());
  raw.end('\x16\x03\x01');
  await t.rejects(session);
  t.throws(() => tlsServer({ cert: 'x', key: 'y', demandsCertificate: false }));
  const near = await connectSocket({ host: '127.0.0.1', port: listener.port });
  await t.rejects(near.startTls(alice({ ca: undefined, cert: 'x', key: 'y' })));
  t.ok(near.destroyed);
});
