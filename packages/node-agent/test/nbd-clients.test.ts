import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { StorError } from '@stor/protocol';
import { silentLogger, systemClock } from '@stor/runtime';
import { makeTestCertificates, missingOpenssl } from '@stor/runtime/testing';
import t, { type Test } from 'tap';
import { TlsFiles, type TlsSettings } from '../src/nbd/tls-files.ts';
import { startServer, until, type TestServer } from './nbd-harness.ts';

const mebibyte = 1 << 20;
/** A real client that hangs is ended (ms). */
const clientTimeoutMs = 30_000;

const packageOf: Record<string, string> = {
  nbdinfo: 'libnbd-bin',
  nbdcopy: 'libnbd-bin',
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  psktool: 'gnutls-bin',
  fio: 'fio',
};

/** Why a test cannot run here; CI has every package, so there it is a failure instead. */
function missing(...programs: string[]): string | false {
  const path = (process.env['PATH'] ?? '').split(delimiter);
  for (const program of programs) {
    if (path.some((dir) => existsSync(join(dir, program)))) continue;
    const text = `${program} is not here: install Debian's package ${packageOf[program]}`;
    if (process.env['CI'] === 'true') throw new Error(text);
    return text;
  }
  return false;
}

/** Standard output of a program; rejects with its messages. */
function run(program: string, ...args: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(program, args, { timeout: clientTimeoutMs }, (error, stdout, stderr) => {
      if (error)
        reject(new Error(`${program} ${args.join(' ')}: ${error.message}\n${stdout}${stderr}`));
      else resolve(stdout);
    });
  });
}

async function serve(
  t: Test,
  sizeBytes: number,
  tls?: (dir: string) => Promise<Partial<TlsSettings>>,
): Promise<TestServer & { dir: string; tcp: string; unix: string; base: string }> {
  const dir = mkdtempSync(join(tmpdir(), 'stor-nbd-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const path = join(dir, 'nbd.sock');
  const settings = { mode: 'required', demandsCertificate: false, ...(await tls?.(dir)) } as const;
  const options = { clock: systemClock, logger: silentLogger };
  const files = tls ? new TlsFiles(settings, options) : null;
  const started = await startServer(t, {
    sizeBytes,
    path,
    ...(files ? { tls: { mode: settings.mode, server: () => files.server() } } : {}),
  });
  return {
    ...started,
    dir,
    tcp: `nbd://127.0.0.1:${started.port}/db`,
    unix: `nbd+unix:///db?socket=${path}`,
    base: `nbd+unix:///?socket=${path}`,
  };
}

/** 16 MiB with data and holes, of an odd size. */
function image(): Buffer {
  const bytes = Buffer.alloc(16 * mebibyte);
  randomBytes(3 * mebibyte + 512).copy(bytes, 70_000);
  randomBytes(mebibyte).copy(bytes, 11 * mebibyte + 3);
  return bytes;
}

function contents(server: TestServer): Buffer {
  const bytes = Buffer.alloc(server.device.sizeBytes);
  server.device.readInline(0, bytes.length, bytes, 0);
  return bytes;
}

t.test('nbdinfo', { skip: missing('nbdinfo') }, async (t) => {
  const server = await serve(t, 16 * mebibyte);
  server.exports.add('other', 4096);
  for (const uri of [server.tcp, server.unix]) {
    const info = JSON.parse(await run('nbdinfo', '--json', uri));
    const [found] = info.exports;
    t.equal(info.structured, true);
    t.match(found, {
      'export-size': 16 * mebibyte,
      contexts: ['base:allocation'],
      is_read_only: false,
      can_cache: true,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * mebibyte,
    });
  }
  const list = JSON.parse(await run('nbdinfo', '--json', '--list', server.base)) as {
    exports: Record<string, unknown>[];
  };
  t.strictSame(
    list.exports.map((entry) => [entry['export-name'], entry['export-size']]),
    [
      ['db', 16 * mebibyte],
      ['other', 4096],
    ],
  );
  await t.rejects(
    run('nbdinfo', server.tcp.replace('/db', '/nope')),
    /No such file or directory for export: nope/,
  );
  const map = JSON.parse(await run('nbdinfo', '--json', '--map', server.unix));
  t.match(map, [{ offset: 0, length: 16 * mebibyte, type: 3 }]);
  await until(() => server.exports.released === server.exports.opened);
});

t.test('nbdcopy, both ways, over TCP and UNIX sockets', { skip: missing('nbdcopy') }, async (t) => {
  const server = await serve(t, 16 * mebibyte);
  const bytes = image();
  const source = join(server.dir, 'in.img');
  const target = join(server.dir, 'out.img');
  writeFileSync(source, bytes);
  for (const [to, from] of [
    [server.tcp, server.unix],
    [server.unix, server.tcp],
  ] as const) {
    await run('nbdcopy', '--flush', source, to);
    t.ok(contents(server).equals(bytes));
    t.ok(server.device.calls.flush > 0);
    await run('nbdcopy', from, target);
    t.ok(readFileSync(target).equals(bytes));
    bytes.reverse();
    writeFileSync(source, bytes);
  }
});

t.test('qemu-img', { skip: missing('qemu-img') }, async (t) => {
  const server = await serve(t, 16 * mebibyte);
  const bytes = image();
  const source = join(server.dir, 'in.img');
  const target = join(server.dir, 'out.img');
  writeFileSync(source, bytes);
  await run('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', source, server.unix);
  t.ok(contents(server).equals(bytes));
  await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', source, server.tcp);
  await run('qemu-img', 'convert', '-f', 'raw', '-O', 'raw', server.tcp, target);
  t.ok(readFileSync(target).equals(bytes));
  const map = JSON.parse(
    await run('qemu-img', 'map', '--output=json', '-f', 'raw', server.unix),
  ) as { data: boolean; length: number }[];
  t.ok(
    map.some((extent) => !extent.data),
    'holes are seen',
  );
  bytes[0]! ^= 1;
  writeFileSync(source, bytes);
  await t.rejects(
    run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', source, server.unix),
    /mismatch/,
  );
});

t.test(
  'qemu-io: small, unaligned, zeroes, discard, flush',
  { skip: missing('qemu-io') },
  async (t) => {
    const server = await serve(t, 16 * mebibyte);
    const commands = [
      'write -P 5 512 512',
      'read -P 5 512 512',
      'read -P 0 0 512',
      'write -f -P 6 1000 3',
      'read -P 6 1000 3',
      'aio_write -P 7 4M 2M',
      'aio_flush',
      'read -P 7 4M 2M',
      'write -z 4M 64k',
      'write -z -u 5M 64k',
      'read -P 0 4M 64k',
      'read -P 0 5M 64k',
      'discard 5M 1M',
      'flush',
    ];
    const output = await run(
      'qemu-io',
      '-f',
      'raw',
      ...commands.flatMap((c) => ['-c', c]),
      server.unix,
    );
    t.notMatch(output, /verification failed|rror/i);
    t.ok(server.device.fuaCalls > 0);
    t.ok(server.device.noHoleCalls > 0);
    t.ok(server.device.calls.trim > 0);
  },
);

t.test('fio verifies what it wrote, over two connections', { skip: missing('fio') }, async (t) => {
  const server = await serve(t, 16 * mebibyte);
  const output = await run(
    'fio',
    '--name=verify',
    '--verify_state_save=0',
    '--ioengine=nbd',
    `--uri=${server.unix}`,
    '--rw=randwrite',
    '--bsrange=512-64k',
    '--blockalign=512',
    '--size=8M',
    '--numjobs=2',
    '--offset_increment=8M',
    '--iodepth=16',
    '--verify=crc32c',
    '--verify_fatal=1',
    '--fsync=64',
    '--output-format=json',
  );
  const { jobs } = JSON.parse(output.slice(output.indexOf('{')));
  t.equal(jobs.length, 2);
  for (const job of jobs) {
    t.equal(job.error, 0);
    t.ok(job.write.total_ios > 0 && job.read.total_ios >= job.write.total_ios);
  }
  const stats = server.server.stats.exports.get('v-db')!;
  t.ok(stats.flush.ops > 0);
  await until(() => server.exports.released === server.exports.opened);
  t.equal(stats.write.errors + stats.read.errors, 0);
});

/** Copies in and out, and lists, over TLS as `query` and the user of the URI say. */
async function copyOver(
  t: Test,
  server: Awaited<ReturnType<typeof serve>>,
  user: string,
  query: string,
): Promise<void> {
  const uri = (name: string): string => `nbds://${user}127.0.0.1:${server.port}/${name}?${query}`;
  const { unix } = server;
  const info = JSON.parse(await run('nbdinfo', '--json', uri('db')));
  t.match(info, { TLS: true, structured: true, exports: [{ 'export-size': 16 * mebibyte }] });
  t.match(await run('nbdinfo', '--list', uri('')), /db/);
  const bytes = image();
  const source = join(server.dir, 'in.img');
  const target = join(server.dir, 'out.img');
  writeFileSync(source, bytes);
  await run('nbdcopy', '--flush', source, uri('db'));
  t.ok(contents(server).equals(bytes));
  await run('nbdcopy', uri('db'), target);
  t.ok(readFileSync(target).equals(bytes));
  const overUnix = `${unix.replace('nbd+unix:///', `nbds+unix://${user}/`)}&${query}`;
  t.match(JSON.parse(await run('nbdinfo', '--json', overUnix)), { TLS: true });
  t.match(JSON.parse(await run('nbdinfo', '--json', unix)), { TLS: false });
  await t.rejects(run('nbdinfo', server.tcp), /TLS/i);
}

async function qemuReads(
  t: Test,
  server: Awaited<ReturnType<typeof serve>>,
  credentials: string,
): Promise<void> {
  const target = join(server.dir, 'qemu.img');
  const { port } = server;
  const at = `driver=nbd,host=127.0.0.1,port=${port},export=db,tls-creds=tls0,tls-hostname=localhost`;
  const object = ['--object', `${credentials},id=tls0,endpoint=client`];
  const asRaw = [...object, '--image-opts', at];
  t.match(await run('qemu-img', 'info', ...asRaw), /16 MiB/);
  await run('qemu-img', 'convert', '-O', 'raw', ...asRaw, target);
  t.ok(readFileSync(target).equals(contents(server)));
}

const tlsPrograms = missing('nbdinfo', 'nbdcopy', 'qemu-img', 'psktool') || missingOpenssl();

t.test('TLS with certificates: nbdinfo, nbdcopy, qemu-img', { skip: tlsPrograms }, async (t) => {
  const pki = (dir: string): string => join(dir, 'pki');
  const server = await serve(t, 16 * mebibyte, async (dir) => {
    makeTestCertificates(pki(dir));
    const file = (name: string): string => join(pki(dir), name);
    const [cert, key] = [file('server-cert.pem'), file('server-key.pem')];
    return { demandsCertificate: true, cert, key, ca: file('ca-cert.pem') };
  });
  const dir = pki(server.dir);
  await copyOver(t, server, '', `tls-certificates=${dir}`);
  const { caller } = server.exports.asked.findLast(({ caller: { tls } }) => tls !== null) ?? {};
  t.match(caller?.tls?.peer, { kind: 'certificate', subject: 'O=Test, CN=alice' });
  await qemuReads(t, server, `tls-creds-x509,dir=${dir}`);
  const others = join(server.dir, 'others');
  makeTestCertificates(others, 'mallory');
  const stranger = `nbds://127.0.0.1:${server.port}/db?tls-certificates=${others}`;
  const asked = server.exports.asked.length;
  await t.rejects(run('nbdinfo', stranger));
  t.equal(server.exports.asked.length, asked, 'who is not vouched for asks for nothing');
});

t.test('TLS with keys of psktool: nbdinfo, nbdcopy, qemu-img', { skip: tlsPrograms }, async (t) => {
  const server = await serve(t, 16 * mebibyte, async (dir) => {
    const pskFile = join(dir, 'keys.psk');
    await run('psktool', '-u', 'alice', '-p', pskFile);
    return { pskFile };
  });
  const file = join(server.dir, 'keys.psk');
  await copyOver(t, server, 'alice@', `tls-psk-file=${file}`);
  const { caller } = server.exports.asked.findLast(({ caller: { tls } }) => tls !== null) ?? {};
  t.match(caller?.tls?.peer, { kind: 'psk', name: 'alice' });
  await qemuReads(t, server, `tls-creds-psk,dir=${server.dir},username=alice`);
  const wrong = join(server.dir, 'wrong.psk');
  await run('psktool', '-u', 'alice', '-p', wrong);
  const stranger = `nbds://alice@127.0.0.1:${server.port}/db?tls-psk-file=${wrong}`;
  await t.rejects(run('nbdinfo', stranger));
});

t.test(
  'qemu that reconnects hears nothing of a restart',
  { skip: missing('qemu-io') },
  async (t) => {
    const first = await serve(t, 16 * mebibyte);
    const path = join(first.dir, 'nbd.sock');
    const { exports, device } = first;
    const held: (() => void)[] = [];
    const target = `driver=nbd,server.type=unix,server.path=${path},export=db,reconnect-delay=30`;
    const qemu = spawn('qemu-io', ['--image-opts', target], { timeout: clientTimeoutMs });
    let said = '';
    for (const stream of [qemu.stdout, qemu.stderr]) {
      stream.on('data', (text: Buffer) => (said += text.toString()));
    }
    let isOver = false;
    const over = once(qemu, 'close').finally(() => (isOver = true));
    let lines = 0;
    const say = async (line: string): Promise<void> => {
      lines += 1;
      await until(() => isOver || said.split('qemu-io>').length > lines);
      if (isOver) throw new Error(`qemu-io has ended: ${said}`);
      qemu.stdin.write(`${line}\n`);
    };
    device.behaviour.delay = (_operation, done) => held.push(done);
    device.behaviour.fail = () => new StorError('UNAVAILABLE', 'the agent is stopping');
    for (const line of ['aio_write -P 1 0 64k', 'aio_write -P 2 1M 64k', 'aio_read 8M 64k']) {
      await say(line);
    }
    await until(() => held.length === 3 || isOver);
    const stopped = first.server.close();
    await say('aio_write -P 3 3M 64k');
    // those that were started fail because of the stop
    for (const each of held.splice(0)) each();
    await stopped;
    Object.assign(device.behaviour, { delay: null, fail: null });
    await startServer(t, { exports, path });
    await say('aio_flush');
    for (const line of ['read -P 1 0 64k', 'read -P 2 1M 64k', 'read -P 3 3M 64k']) await say(line);
    await say('quit');
    const [code] = (await over) as [number];
    t.equal(code, 0, said);
    t.notMatch(said, /failed|error/i);
    t.equal(said.match(/(wrote|read) 65536/g)?.length, 7, said);
  },
);
