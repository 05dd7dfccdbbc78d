import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { silentLogger, systemClock } from '@stor/runtime';
import {
  FakeClock,
  makeTestCertificates,
  MemoryNetwork,
  missingOpenssl,
  writeTestKeys,
} from '@stor/runtime/testing';
import {
  NbdClient,
  NbdError,
  ReconnectingNbdClient,
  formatNbdUri,
  optionReplyType,
  parseNbdUri,
} from 'nbd-client-js';
import t, { type Test } from 'tap';
import { NbdServer } from '../src/nbd/nbd-server.ts';
import { TlsFiles, type TlsSettings } from '../src/nbd/tls-files.ts';
import { ExportCluster } from './export-cluster.ts';
import { TestExports, startServer, until } from './nbd-harness.ts';

const skip = missingOpenssl();
const root = mkdtempSync(join(tmpdir(), 'stor-tls-'));
t.teardown(() => rmSync(root, { recursive: true }));
const ours = join(root, 'ours');
const theirs = join(root, 'theirs');
const none = join(root, 'none');
const keysFile = join(root, 'keys.psk');
const otherKeysFile = join(root, 'other.psk');
writeTestKeys(keysFile, { node: '11'.repeat(32), alice: '22'.repeat(32) });
writeTestKeys(otherKeysFile, { alice: '33'.repeat(32) });
if (skip === false) {
  makeTestCertificates(ours);
  makeTestCertificates(theirs, 'mallory');
}

const byCertificate = (): Partial<TlsSettings> => ({
  demandsCertificate: true,
  cert: join(ours, 'server-cert.pem'),
  key: join(ours, 'server-key.pem'),
  ca: join(ours, 'ca-cert.pem'),
});
const byKey = (): Partial<TlsSettings> => ({ pskFile: keysFile });

function filesOf(settings: Partial<TlsSettings>): TlsFiles {
  const all = { mode: 'required', demandsCertificate: false, ...settings } as const;
  return new TlsFiles(all, { clock: systemClock, logger: silentLogger });
}

async function serve(t: Test, settings: Partial<TlsSettings>) {
  const files = filesOf(settings);
  const dir = mkdtempSync(join(tmpdir(), 'stor-nbd-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const path = join(dir, 'nbd.sock');
  const { mode } = files.settings;
  const started = await startServer(t, { path, tls: { mode, server: () => files.server() } });
  return { ...started, path };
}

async function failure(uri: string): Promise<NbdError> {
  try {
    const client = await NbdClient.connect({ uri });
    await client.close();
  } catch (error) {
    if (error instanceof NbdError) return error;
    throw error;
  }
  throw new Error(`${uri} was served`);
}

/** Writes, reads back and asks for the extents, many at a time. */
async function use(t: Test, uri: string): Promise<void> {
  const client = await NbdClient.connect({ uri });
  const blocks = [...Array(64).keys()];
  await Promise.all(blocks.map((at) => client.write(at * 8192, Buffer.alloc(8192, at + 1))));
  await client.flush();
  const read = await Promise.all(blocks.map((at) => client.read(at * 8192, 8192)));
  t.ok(read.every((bytes, at) => bytes.every((byte) => byte === at + 1)));
  const large = Buffer.alloc(524_288, 'stor');
  await client.write(0, large);
  t.ok((await client.read(0, large.length)).equals(large));
  t.strictSame(await client.list(), [client.exportName]);
  await client.disconnect();
}

t.test('certificates: nbds over TCP and UNIX sockets, and exact errors', { skip }, async (t) => {
  const { port, path, exports } = await serve(t, byCertificate());
  const uri = (query: string, host = '127.0.0.1'): string => `nbds://${host}:${port}/db?${query}`;
  await use(t, uri(`tls-certificates=${ours}`));
  await use(t, `nbds+unix:///db?socket=${path}&tls-certificates=${ours}`);
  t.match(exports.asked.at(-1)?.caller.tls?.peer, { subject: 'O=Test, CN=alice' });

  const asked = exports.asked.length;
  const unknown = await failure(uri(`tls-certificates=${theirs}`));
  t.equal(unknown.code, 'TLS');
  t.match(unknown.message, /no TLS with 127\.0\.0\.1:\d+ for 127\.0\.0\.1: .*certificate/);
  const misnamed = await failure(uri(`tls-certificates=${ours}&tls-hostname=example.org`));
  t.equal(misnamed.code, 'TLS');
  t.match(misnamed.message, /for example\.org: .*altnames/);
  const anonymous = join(root, 'anonymous');
  makeTestCertificates(anonymous);
  for (const name of ['client-cert', 'client-key']) rmSync(join(anonymous, `${name}.pem`));
  const refused = await failure(uri(`tls-certificates=${anonymous}&tls-verify-peer=0`));
  t.equal(refused.code, 'TLS');
  t.match(refused.message, /certificate required/);
  const stranger = await failure(uri(`tls-certificates=${theirs}&tls-verify-peer=0`));
  t.match(stranger.message, /certificate of this client|unknown ca|ECONNRESET/i);
  t.equal((await failure(uri(`tls-certificates=${none}`))).code, 'TLS');
  // a file that is being written: of nothing TLS would make every authority that the system knows
  writeFileSync(join(anonymous, 'ca-cert.pem'), '');
  const empty = await failure(uri(`tls-certificates=${anonymous}`));
  t.equal(empty.code, 'TLS');
  t.match(empty.message, /no certificate in it/);
  const clear = await failure(`nbd://127.0.0.1:${port}/db`);
  t.match(clear, { code: 'REFUSED', optionReply: optionReplyType.errTlsReqd });
  t.match(clear.message, /requires TLS/);
  t.equal(exports.asked.length, asked, 'none of them has asked for anything');
});

t.test('pre-shared keys, and a server that has no TLS', { skip }, async (t) => {
  const { port, path, exports } = await serve(t, byKey());
  await use(t, `nbds://alice@127.0.0.1:${port}/db?tls-psk-file=${keysFile}`);
  await use(t, `nbds+unix://alice@/db?socket=${path}&tls-psk-file=${keysFile}`);
  t.match(exports.asked.at(-1)?.caller.tls?.peer, { kind: 'psk', name: 'alice' });
  const wrong = await failure(`nbds://alice@127.0.0.1:${port}/db?tls-psk-file=${otherKeysFile}`);
  t.equal(wrong.code, 'TLS');
  t.match(wrong.message, /as "alice": /);
  const nobody = await failure(`nbds://bob@127.0.0.1:${port}/db?tls-psk-file=${keysFile}`);
  t.match(nobody.message, /no key for "bob"/);

  const plain = await startServer(t);
  const query = `tls-psk-file=${keysFile}`;
  const required = await failure(`nbds://alice@127.0.0.1:${plain.port}/db?${query}`);
  t.match(required, { code: 'REFUSED', optionReply: optionReplyType.errUnsup });
  t.equal(plain.exports.asked.length, 0);
  await use(t, `nbd://alice@127.0.0.1:${plain.port}/db?${query}`);
  await use(t, `nbd://alice@127.0.0.1:${port}/db?${query}`);
  t.not(exports.asked.at(-1)?.caller.tls, null, 'allowed TLS is taken where it is');
});

t.test('a key is proved by the server too, whoever has a certificate', { skip }, async (t) => {
  const open = await serve(t, { ...byCertificate(), demandsCertificate: false });
  const error = await failure(`nbds://alice@127.0.0.1:${open.port}/db?tls-psk-file=${keysFile}`);
  t.equal(error.code, 'TLS');
  t.equal(open.exports.asked.length, 0);
});

t.test('the reconnecting client comes back over TLS', { skip }, async (t) => {
  const servers = [await serve(t, byKey()), await serve(t, byKey())];
  const addresses = servers.map(
    ({ port }) => `nbds://alice@127.0.0.1:${port}/db?tls-psk-file=${keysFile}`,
  );
  const client = await ReconnectingNbdClient.connect({ addresses });
  await client.write(0, Buffer.alloc(4096, 1));
  await servers[0]?.server.close();
  await client.write(4096, Buffer.alloc(4096, 2));
  t.match(servers[1]?.exports.asked.at(-1), { what: 'open db', caller: { tls: { peer: {} } } });
  await client.disconnect();
});

t.test('nodes relay to each other over TLS', { skip }, async (t) => {
  const nodes = {
    ...byCertificate(),
    cert: join(ours, 'node-cert.pem'),
    key: join(ours, 'node-key.pem'),
  };
  for (const [what, settings, tls] of [
    ['by certificate', nodes, { certificates: ours }],
    ['by key', byKey(), { pskFile: keysFile, username: 'alice' }],
  ] as const) {
    const files = filesOf(settings);
    const cluster = await ExportCluster.start(t, 3, {
      tls: {
        server: { mode: 'required', server: () => files.server() },
        client: () => files.client(),
      },
    });
    await t.rejects(cluster.node(1).client(t), /requires TLS/);
    const client = await cluster.node(1).client(t, { tls });
    await client.write(0, Buffer.alloc(4096, 1));
    await cluster.movePrimary(cluster.node(2));
    await client.write(4096, Buffer.alloc(4096, 2));
    await cluster.movePrimary(cluster.node(3));
    const bytes = await client.read(0, 8192);
    t.strictSame([bytes[0], bytes[8191]], [1, 2]);
    t.equal(cluster.node(1).exports.relayStats.connections, 1, what);
    t.ok(cluster.node(1).exports.relayStats.readBytes > 0);
  }
});

t.test('a certificate for servers only is warned of: other nodes refuse it', { skip }, (t) => {
  const warned: string[] = [];
  const logger = { ...silentLogger, warn: (_fields: object, text: string) => warned.push(text) };
  const options = { clock: systemClock, logger };
  const settings = { mode: 'required', demandsCertificate: false, ...byCertificate() } as const;
  new TlsFiles(settings, options);
  t.match(warned, [/for servers only/]);
  new TlsFiles({ ...settings, pskFile: keysFile }, options);
  t.equal(warned.length, 1, 'nodes use their key');
  t.end();
});

t.test('in memory', async (t) => {
  const clock = new FakeClock();
  const network = new MemoryNetwork({ clock });
  const files = filesOf(byKey());
  const exports = new TestExports();
  exports.add('db', 1 << 20);
  const server = await NbdServer.listen({
    targets: [{ host: 'n1', port: 1 }],
    exports,
    clock,
    logger: silentLogger,
    network: network.host('n1'),
    tls: { mode: 'required', server: () => files.server() },
  });
  const connect = async (username: string, pskFile: string): Promise<NbdClient> => {
    const options = { host: 'n1', port: 1, exportName: 'db', tls: { pskFile, username } };
    let isOver = false;
    const connecting = NbdClient.connect({ ...options, clock, network: network.host('c') });
    connecting.then(
      () => (isOver = true),
      () => (isOver = true),
    );
    await until(() => {
      clock.advance(1);
      return isOver;
    });
    return connecting;
  };
  const client = await connect('alice', keysFile);
  t.match(exports.asked.at(-1)?.caller.tls?.peer, { kind: 'psk', name: 'alice' });
  await t.rejects(connect('alice', otherKeysFile), { code: 'TLS' });
  void client.close();
  void server.close();
  clock.advance(20_000);
  await until(() => server.connectionCount === 0);
});

t.test('URIs', (t) => {
  const x509 = 'nbds://example.org:10809/db?tls-certificates=%2Fpki&tls-hostname=stor';
  t.strictSame(parseNbdUri(x509), {
    address: { host: 'example.org', port: 10809 },
    exportName: 'db',
    tls: { mode: 'require', certificates: '/pki', hostname: 'stor' },
  });
  const psk = 'nbds+unix://al%40ice@/db?socket=%2Fs&tls-psk-file=%2Fk';
  t.strictSame(parseNbdUri(psk), {
    address: { path: '/s' },
    exportName: 'db',
    tls: { mode: 'require', pskFile: '/k', username: 'al@ice' },
  });
  t.strictSame(parseNbdUri('nbds://h').tls, { mode: 'require' });
  t.strictSame(parseNbdUri('nbd://h/x?tls-verify-peer=0&tls-type=x509').tls, {
    mode: 'allow',
    verifyPeer: false,
  });
  t.equal(parseNbdUri('nbd://user@h/x').tls, undefined);
  for (const uri of [x509, psk]) t.equal(formatNbdUri(parseNbdUri(uri)), uri);
  const allowed = 'nbd://h:10809/x?tls-type=x509';
  t.equal(formatNbdUri(parseNbdUri(allowed)), allowed);
  for (const bad of [
    'nbds://h/x?tls-certificate=/pki',
    'nbds://h/x?tls-type=anon',
    'nbds://h/x?tls-type=psk',
    'nbds://h/x?tls-verify-peer=maybe',
    'nbds://h/x?tls-certificates=/a&tls-psk-file=/b',
    'nbds://%zz@h/x',
    'nbdss://h/x',
  ]) {
    t.throws(() => parseNbdUri(bad), { code: 'INVALID_ARGUMENT' }, bad);
  }
  const tls = { psk: { identity: 'a', key: new Uint8Array(16) } };
  t.throws(() => formatNbdUri({ address: { path: '/s' }, exportName: '', tls }), /URI/);
  t.end();
});

function missingServer(program: string, packageName: string): string | false {
  const path = (process.env['PATH'] ?? '').split(delimiter);
  if (skip !== false) return skip;
  if (path.some((dir) => existsSync(join(dir, program)))) return false;
  const text = `${program} is not here: install Debian's package ${packageName}`;
  if (process.env['CI'] === 'true') throw new Error(text);
  return text;
}

/** Starts a server and waits for its socket; ended with the test. */
async function foreign(t: Test, socket: string, program: string, args: string[]): Promise<void> {
  const child = spawn(program, args, { stdio: 'ignore' });
  let isOver = false;
  child.on('exit', () => (isOver = true));
  child.on('error', () => (isOver = true));
  t.teardown(() => child.kill('SIGKILL'));
  await until(() => existsSync(socket) || isOver);
  if (isOver) throw new Error(`${program} ${args.join(' ')} ended`);
}

t.test('our client and nbdkit', { skip: missingServer('nbdkit', 'nbdkit') }, async (t) => {
  const kit = (name: string, tls: string[]): Promise<string> => {
    const socket = join(root, `${name}.sock`);
    const args = ['-f', '-U', socket, '--tls=require', ...tls, 'memory', '1M'];
    return foreign(t, socket, 'nbdkit', args).then(() => socket);
  };
  const x509 = await kit('kit-x509', [`--tls-certificates=${ours}`, '--tls-verify-peer']);
  const plain = await NbdClient.connect({ path: x509, tls: { certificates: ours } });
  await plain.write(4096, Buffer.alloc(100_000, 7));
  t.equal((await plain.read(4096, 100_000))[99_999], 7);
  await plain.disconnect();
  t.equal((await failure(`nbds+unix:///?socket=${x509}&tls-certificates=${theirs}`)).code, 'TLS');
  t.equal((await failure(`nbd+unix:///?socket=${x509}`)).optionReply, optionReplyType.errTlsReqd);
  const psk = await kit('kit-psk', [`--tls-psk=${keysFile}`]);
  const keyed = await NbdClient.connect({
    uri: `nbds+unix://alice@/?socket=${psk}&tls-psk-file=${keysFile}`,
  });
  await keyed.write(0, Buffer.alloc(65_536, 9));
  t.equal((await keyed.read(0, 65_536))[65_535], 9);
  await keyed.disconnect();
  const wrong = await failure(`nbds+unix://alice@/?socket=${psk}&tls-psk-file=${otherKeysFile}`);
  t.equal(wrong.code, 'TLS');
});

t.test('our client and qemu-nbd', { skip: missingServer('qemu-nbd', 'qemu-utils') }, async (t) => {
  const image = join(root, 'disk.img');
  await promisify(execFile)('truncate', ['-s', '1M', image]);
  const qemu = (name: string, object: string): Promise<string> => {
    const socket = join(root, `${name}.sock`);
    const creds = ['--object', `${object},id=tls0,endpoint=server`, '--tls-creds', 'tls0'];
    const args = ['-f', 'raw', '-k', socket, '-x', 'db', '-t', '-e', '4', ...creds, image];
    return foreign(t, socket, 'qemu-nbd', args).then(() => socket);
  };
  const x509 = await qemu('qemu-x509', `tls-creds-x509,dir=${ours},verify-peer=on`);
  await use(t, `nbds+unix:///db?socket=${x509}&tls-certificates=${ours}`);
  const folder = join(root, 'qemu-keys');
  await promisify(execFile)('mkdir', [folder]);
  writeTestKeys(join(folder, 'keys.psk'), { alice: '22'.repeat(32) });
  const psk = await qemu('qemu-psk', `tls-creds-psk,dir=${folder}`);
  await use(t, `nbds+unix://alice@/db?socket=${psk}&tls-psk-file=${keysFile}`);
});
