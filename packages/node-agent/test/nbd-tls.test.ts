import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type tls from 'node:tls';
import { silentLogger, tlsServer } from '@stor/runtime';
import { FakeClock, makeTestCertificates, missingOpenssl } from '@stor/runtime/testing';
import {
  command,
  encodeGoBody,
  encodeMetaContextBody,
  encodeOption,
  errno,
  formatClientContext,
  optionReplyType,
  optionType,
  parsePskFile,
} from 'nbd-client-js';
import t from 'tap';
import { checkAgentSettings } from '../src/config.ts';
import type { TlsMode } from '../src/core/nbd/tls-gate.ts';
import type { ConnectionTls } from '../src/nbd/nbd-connection.ts';
import { TlsFiles } from '../src/nbd/tls-files.ts';
import { RawClient, rawClient, startServer, until } from './nbd-harness.ts';

const psk = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
const keys = new Map([['alice', psk]]);
const byKey = (key: Buffer = psk): tls.ConnectionOptions => ({
  ciphers: 'TLS_AES_128_GCM_SHA256',
  ca: [],
  checkServerIdentity: () => undefined,
  pskCallback: () => ({ identity: 'alice', psk: key }),
});
function keyed(mode: TlsMode): ConnectionTls {
  const server = tlsServer({ psk: keys, demandsCertificate: false });
  return { mode, server: () => server };
}
const go = encodeGoBody({ name: 'db', infos: [] });
const typesOf = (replies: { type: number }[]): number[] => replies.map(({ type }) => type);

t.test('where TLS is required nothing is granted, and nothing looked at, without', async (t) => {
  const { port, exports } = await startServer(t, { tls: keyed('required') });
  const client = rawClient(t, port);
  await client.greet();
  for (const option of [
    optionType.list,
    optionType.info,
    optionType.go,
    optionType.structuredReply,
    optionType.listMetaContext,
    optionType.setMetaContext,
    optionType.extendedHeaders,
    4711,
  ]) {
    t.strictSame(
      typesOf(await client.option(option, go)),
      [optionReplyType.errTlsReqd],
      `${option}`,
    );
  }
  const large = await client.option(optionType.go, Buffer.alloc(20_000));
  t.strictSame(typesOf(large), [optionReplyType.errTlsReqd], 'one that is too large, too');
  t.strictSame(typesOf(await client.option(optionType.starttls, Buffer.alloc(1))), [
    optionReplyType.errInvalid,
  ]);
  t.strictSame(typesOf(await client.option(optionType.abort)), [optionReplyType.ack]);
  await client.rest();
  const old = rawClient(t, port);
  await old.greet();
  old.send(encodeOption(optionType.exportName, Buffer.from('db')));
  t.equal((await old.rest()).length, 0);
  t.strictSame(exports.asked, []);
});

t.test('after STARTTLS all is asked anew, and the server knows who the client is', async (t) => {
  const { port, exports } = await startServer(t, { tls: keyed('allowed') });
  const client = rawClient(t, port);
  await client.greet();
  await client.option(optionType.structuredReply);
  const contexts = encodeMetaContextBody({ name: 'db', queries: ['base:allocation'] });
  await client.option(optionType.setMetaContext, contexts);
  t.strictSame(typesOf(await client.option(optionType.starttls)), [optionReplyType.ack]);
  await client.secure(byKey());
  t.strictSame(typesOf(await client.option(optionType.starttls)), [optionReplyType.errInvalid]);
  t.strictSame(
    typesOf(await client.option(optionType.setMetaContext, contexts)),
    [optionReplyType.errInvalid],
    'structured replies are forgotten',
  );
  t.strictSame(typesOf(await client.option(optionType.go, go)), [
    optionReplyType.info,
    optionReplyType.ack,
  ]);
  const opened = exports.asked.at(-1);
  t.match(opened, {
    what: 'open db',
    caller: { tls: { peer: { kind: 'psk', name: 'alice' } }, contexts: [] },
  });
  const payload = Buffer.alloc(700_000, 'stor');
  client.request({ type: command.write, payload });
  t.equal(await client.simple(), 0);
  client.request({ type: command.read, length: payload.length, cookie: 2 });
  t.equal(await client.simple(2), 0);
  t.ok((await client.take(payload.length)).equals(payload));
  client.request({ type: command.disconnect });
  await client.rest();
  await until(() => exports.released === 1);

  const clear = rawClient(t, port);
  await clear.go('db');
  t.match(exports.asked.at(-1), { what: 'open db', caller: { tls: null } });
});

t.test('bytes in the clear behind STARTTLS are never taken for what came over TLS', async (t) => {
  const { port, exports, server } = await startServer(t, { tls: keyed('required') });
  const early = rawClient(t, port);
  await early.greet();
  early.send(encodeOption(optionType.starttls), encodeOption(optionType.list));
  t.equal((await early.rest()).length, 0);
  const late = rawClient(t, port);
  await late.greet();
  await late.option(optionType.starttls);
  late.send(encodeOption(optionType.list), encodeOption(optionType.go, go));
  t.notMatch((await late.rest()).toString('latin1'), 'db');
  const stranger = rawClient(t, port);
  await stranger.greet();
  await stranger.option(optionType.starttls);
  await t.rejects(stranger.secure(byKey(Buffer.alloc(16))));
  await until(() => server.connectionCount === 0);
  t.strictSame(exports.asked, []);
  t.equal(server.stats.refused.get('tls'), 3);
});

t.test('the time of the TLS handshake counts', async (t) => {
  const clock = new FakeClock();
  const { port, server } = await startServer(t, { clock, tls: keyed('required') });
  const client = rawClient(t, port);
  await client.greet();
  await client.option(optionType.starttls);
  clock.advance(30_000);
  await client.rest();
  await until(() => server.connectionCount === 0);
  t.equal(server.stats.refused.get('handshake-timeout'), 1);
  t.equal(server.stats.refused.get('tls'), 0);
});

t.test('a UNIX socket is offered TLS and needs none', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'stor-nbd-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const path = join(dir, 'nbd.sock');
  const { exports } = await startServer(t, { path, tls: keyed('required') });
  const clear = new RawClient({ path });
  await clear.go('db');
  t.match(exports.asked.at(-1), { caller: { tls: null } });
  clear.socket.destroy();
  const client = new RawClient({ path });
  await client.greet();
  await client.option(optionType.starttls);
  await client.secure(byKey());
  await client.option(optionType.list);
  t.match(exports.asked.at(-1), { what: 'list', caller: { tls: { peer: { name: 'alice' } } } });
  client.socket.destroy();
});

t.test('one address does not take the place of all', async (t) => {
  const { port, server } = await startServer(t, { limits: { connectionsPerPeer: 2 } });
  const clients = [rawClient(t, port), rawClient(t, port)];
  for (const client of clients) await client.take(18);
  t.equal((await rawClient(t, port).rest()).length, 0);
  t.equal(server.stats.refused.get('connections-per-peer'), 1);
  clients[0]?.socket.destroy();
  await until(() => server.connectionCount === 1);
  await rawClient(t, port).take(18);
});

t.test('a client that takes no replies is cut off; one that takes some is not', async (t) => {
  const clock = new FakeClock();
  const { port, server, exports } = await startServer(t, { clock, sizeBytes: 64 << 20 });
  const client = rawClient(t, port);
  await client.go('db');
  client.socket.pause();
  const read = (): void => {
    client.request({ type: command.read, length: 8 << 20 });
  };
  for (let count = 0; count < 4; count += 1) read();
  await until(() => server.stats.ofExport('v-db', 'db').read.ops > 0);
  clock.advance(50_000);
  client.socket.resume();
  await client.take(16 + (8 << 20));
  client.socket.pause();
  clock.advance(50_000);
  t.equal(server.connectionCount, 1);
  for (let time = 0; time < 10; time += 1) clock.advance(60_000 / 8);
  await until(() => server.connectionCount === 0);
  t.equal(server.stats.refused.get('stalled'), 1);
  t.equal(exports.released, exports.opened);
});

t.test('a server that stops says so', async (t) => {
  const { port, device, exports, server } = await startServer(t);
  const finish: (() => void)[] = [];
  device.behaviour.delay = (_operation, done) => finish.push(done);
  const client = rawClient(t, port);
  await client.greet();
  await client.option(optionType.structuredReply);
  const queries = [formatClientContext({ id: 'keen', sequence: [1] })];
  await client.option(optionType.setMetaContext, encodeMetaContextBody({ name: 'db', queries }));
  await client.option(optionType.go, go);
  const simple = rawClient(t, port);
  await simple.go('db');
  const structured = rawClient(t, port);
  await structured.go('db', { structured: true });
  const silent = [simple, structured];
  for (const each of [client, ...silent]) each.request({ type: command.flush });
  await until(() => finish.length === 3);
  const haggling = rawClient(t, port);
  await haggling.greet();
  await haggling.option(optionType.structuredReply);
  const opening = rawClient(t, port);
  await opening.greet();
  let open: () => void = () => {};
  exports.openGate = new Promise((resolve) => (open = resolve));
  opening.send(encodeOption(optionType.go, go));
  await until(() => exports.asked.filter(({ what }) => what.startsWith('open')).length === 4);

  const closed = server.close();
  client.request({ type: command.write, payload: Buffer.alloc(512), cookie: 2 });
  client.request({ type: command.read, length: 512, cookie: 3 });
  t.equal(await client.simple(2), errno.ESHUTDOWN);
  const { type, body } = await client.chunk();
  t.equal(type, 0x8001);
  t.equal(body.readUInt32BE(0), errno.ESHUTDOWN);
  // the kernel's driver and qemu would take that for a bad disk
  for (const each of silent) each.request({ type: command.flush, cookie: 2 });
  t.strictSame(typesOf(await haggling.option(optionType.go, go)), [optionReplyType.errShutdown]);
  t.equal((await haggling.rest()).length, 0);
  open();
  t.equal((await opening.takeReply()).type, optionReplyType.errShutdown);
  await opening.rest();
  for (const each of finish) each();
  t.equal(await client.simple(1), 0, 'what was started is answered');
  for (const each of silent) t.equal(await each.simple(1), 0);
  for (const each of [client, ...silent]) t.equal((await each.rest()).length, 0);
  await closed;
  t.strictSame(device.calls, { ...device.calls, write: 0, read: 0, readInline: 0, flush: 3 });
  t.equal(exports.released, exports.opened);
});

t.test('new files count for new connections; broken ones leave the old', (t) => {
  const clock = new FakeClock();
  const files = new Map([['/keys', `alice:${psk.toString('hex')}\n`]]);
  const readText = (path: string): string => {
    const text = files.get(path);
    if (text === undefined) throw new Error(`ENOENT: ${path}`);
    return text;
  };
  const settings = { mode: 'required', demandsCertificate: false, pskFile: '/keys' } as const;
  const options = { clock, logger: silentLogger, readText };
  const source = new TlsFiles(settings, options);
  const first = source.server();
  t.strictSame(first.pskOf?.('alice'), new Uint8Array(psk));
  t.match(source.client(), { mode: 'require', psk: { identity: 'alice' } });
  files.set('/keys', `bob:${psk.toString('hex')}\n`);
  t.equal(source.server(), first, 'not looked at again within a second');
  clock.advance(1_000);
  t.equal(source.server().pskOf?.('alice'), null);
  t.ok(source.server().pskOf?.('bob'));
  for (const broken of ['', 'bob', 'bob:00', 'bob:zz'.padEnd(40, 'z')]) {
    files.set('/keys', broken);
    clock.advance(1_000);
    t.ok(source.server().pskOf?.('bob'));
    t.throws(() => new TlsFiles(settings, options), { code: 'INVALID_ARGUMENT' });
  }
  files.delete('/keys');
  clock.advance(1_000);
  t.ok(source.server().pskOf?.('bob'));
  t.throws(() => new TlsFiles({ ...settings, pskFile: '/none' }, options), /ENOENT/);
  t.end();
});

t.test('certificates are replaced in use', { skip: missingOpenssl() }, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'stor-nbd-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  makeTestCertificates(dir);
  const clock = new FakeClock();
  const settings = {
    mode: 'required' as const,
    demandsCertificate: true,
    cert: join(dir, 'server-cert.pem'),
    key: join(dir, 'server-key.pem'),
    ca: join(dir, 'ca-cert.pem'),
  };
  const files = new TlsFiles(settings, { clock, logger: silentLogger });
  const { port, exports } = await startServer(t, {
    tls: { mode: 'required', server: () => files.server() },
  });
  const connect = async (): Promise<RawClient> => {
    const client = rawClient(t, port);
    await client.greet();
    await client.option(optionType.starttls);
    const read = (name: string): string => readFileSync(join(dir, name), 'utf8');
    await client.secure({
      ca: read('ca-cert.pem'),
      cert: read('client-cert.pem'),
      key: read('client-key.pem'),
      servername: 'localhost',
    });
    await client.option(optionType.list);
    return client;
  };
  const before = await connect();
  t.match(exports.asked.at(-1)?.caller.tls?.peer, { subject: 'O=Test, CN=alice' });
  makeTestCertificates(dir, 'bob');
  await t.rejects(connect(), 'the old ones are in use still');
  clock.advance(1_000);
  await connect();
  const peer = exports.asked.at(-1)?.caller.tls?.peer;
  t.match(peer, { kind: 'certificate', subject: 'O=Test, CN=bob' });
  t.match(peer, { fingerprint: /^([0-9A-F]{2}:){31}[0-9A-F]{2}$/ });
  t.strictSame(typesOf(await before.option(optionType.list)).at(-1), 1, 'who is in stays in');
});

t.test('a CA file that is empty or cut off vouches for nobody', { skip: missingOpenssl() }, (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'stor-nbd-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  makeTestCertificates(dir);
  const clock = new FakeClock();
  const texts = new Map<string, string>();
  for (const name of ['server-cert', 'server-key', 'ca-cert']) {
    texts.set(name, readFileSync(join(dir, `${name}.pem`), 'utf8'));
  }
  const whole = texts.get('ca-cert') ?? '';
  const settings = {
    ...{ mode: 'required' as const, demandsCertificate: true },
    ...{ cert: 'server-cert', key: 'server-key', ca: 'ca-cert' },
  };
  const readText = (path: string): string => texts.get(path) ?? '';
  const options = { clock, logger: silentLogger, readText };
  const files = new TlsFiles(settings, options);
  const first = files.server();
  const half = whole.slice(0, Math.floor(whole.length / 2));
  // the empty one would let in whomever any authority of the system vouches for
  for (const broken of ['', '\n', half, `${whole}${half}`, 'no certificate']) {
    texts.set('ca-cert', broken);
    clock.advance(1_000);
    t.equal(files.server(), first, 'the one read before stays in use');
    t.equal(files.client().ca, whole);
    t.throws(() => new TlsFiles(settings, options), { code: 'INVALID_ARGUMENT' });
  }
  texts.set('ca-cert', `${whole}# and again\n${whole}`);
  clock.advance(1_000);
  t.not(files.server(), first);
  t.end();
});

t.test('what a configuration may say of TLS', (t) => {
  const settings = (tls: object): object => ({
    dataDir: '/d',
    listen: { api: 1, http: 2, peers: 3, nbd: [4] },
    nbd: { tls },
  });
  const [cert, key, ca, pskFile] = ['/cert', '/key', '/ca', '/keys'];
  for (const good of [
    { mode: 'off' },
    { mode: 'required', pskFile },
    { mode: 'allowed', cert, key },
    { mode: 'required', cert, key, ca, pskFile, pskIdentity: 'node' },
  ]) {
    t.match(checkAgentSettings(settings(good), 'here').nbd?.tls, good);
  }
  for (const [bad, why] of [
    [{ mode: 'required' }, /give cert and key, or pskFile/],
    [{ mode: 'always', pskFile }, /mode/],
    [{ mode: 'required', cert }, /go together/],
    [{ mode: 'required', pskFile, ca }, /ca goes with/],
    [{ mode: 'required', cert, key, clientCertificates: 'required' }, /needs ca/],
    [{ mode: 'required', cert, key, pskFile }, /without a key/],
    [{ mode: 'required', cert, key, ca, pskFile, clientCertificates: 'none' }, /without a key/],
    [{ mode: 'required', pskFile: 'keys' }, /pskFile/],
    [{ mode: 'required', cert, key, pskIdentity: 'x' }, /needs pskFile/],
  ] as const) {
    t.throws(() => checkAgentSettings(settings(bad), 'here'), { message: why });
  }
  t.end();
});

t.test('a file of keys', (t) => {
  const hex = psk.toString('hex');
  t.strictSame(
    parsePskFile(`alice:${hex}\n\n#626f62:${hex.toUpperCase()}\r\n`, 'keys'),
    new Map([
      ['alice', new Uint8Array(psk)],
      ['bob', new Uint8Array(psk)],
    ]),
  );
  const thrown = (text: string): string => {
    try {
      parsePskFile(text, 'keys');
      return '';
    } catch (error) {
      return (error as Error).message;
    }
  };
  t.match(thrown(`alice:${hex}\nbob:12\n`), /^keys, line 2: the key/);
  t.match(thrown(`alice:${hex}\nalice:${hex}\n`), /second key/);
  t.match(thrown(`${'x'.repeat(129)}:${hex}`), /name/);
  t.notMatch(thrown(`alice:${hex}0`), hex, 'no key in a message');
  t.end();
});
