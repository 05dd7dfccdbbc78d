import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import {
  encodeClientFlags,
  encodeGoBody,
  encodeMetaContextBody,
  encodeOption,
  greetingBytes,
  optionReplyType,
  optionType,
} from 'nbd-client-js';
import { makeTestCertificates } from '@stor/runtime/testing';
import type { TestCluster } from '../../harness/test-cluster.ts';
import { expect, line, onCluster, output, refusal, type NbdStage } from './stage.ts';

const volume = 'secret';
const mark = 'these bytes are for nobody';

/** Where TLS is required: what is let in, and that nothing else is told or served. */
export async function authorization(stage: NbdStage): Promise<void> {
  const pki = join(stage.dir, 'pki');
  const strangers = join(stage.dir, 'strangers');
  makeTestCertificates(pki);
  makeTestCertificates(strangers, 'mallory');
  const keys = join(stage.dir, 'keys.psk');
  await output('psktool', '-u', 'node', '-p', keys);
  await output('psktool', '-u', 'alice', '-p', keys);
  const file = (name: string): string => join(pki, name);
  const extraConfig = [
    'nbd:',
    '  tls:',
    '    mode: required',
    `    cert: ${file('node-cert.pem')}`,
    `    key: ${file('node-key.pem')}`,
    `    ca: ${file('ca-cert.pem')}`,
    `    pskFile: ${keys}`,
    '',
  ].join('\n');
  await onCluster(stage, { nodes: 1, extraConfig }, async (cluster) => {
    await cluster.must('volume', 'create', volume, '--size', '16MiB', '--replicas', '1');
    const image = join(stage.dir, 'disk.img');
    writeFileSync(image, Buffer.alloc(16 * 1024 * 1024, mark));
    await letIn(stage, cluster, { pki, keys, image });
    await keptOut(stage, cluster, { pki, strangers });
    await nothingServed(stage, cluster);
  });
}

async function letIn(
  stage: NbdStage,
  cluster: TestCluster,
  { pki, keys, image }: { pki: string; keys: string; image: string },
): Promise<void> {
  const { host, nbdPort } = cluster.agent(0).place;
  const own = join(stage.dir, 'alice');
  const { nbdUri } = (await cluster.inspect(volume)).status;
  await line(stage, 'status.nbdUri', 'nbds://', async () => {
    expect(nbdUri === `nbds://${host}:${nbdPort}/${volume}`, nbdUri);
    return nbdUri;
  });
  for (const [kind, user, query, given] of [
    ['x.509', '', `tls-certificates=${pki}`, ['--tls-certificates', pki]],
    ['PSK', 'alice@', `tls-psk-file=${keys}`, ['--tls-psk-file', keys, '--tls-username', 'alice']],
  ] as const) {
    const uri = `nbds://${user}${host}:${nbdPort}/${volume}?${query}`;
    await line(stage, `GnuTLS, ${kind}: nbdcopy in and out`, 'equal bytes', async () => {
      await output('nbdcopy', '--flush', image, uri);
      await output('nbdcopy', uri, `${own}-${kind}.img`);
      expect(readFileSync(`${own}-${kind}.img`).equals(readFileSync(image)), 'equal bytes');
      return 'equal';
    });
    await line(stage, `storctl, ${kind}: import, export, bench, uri`, 'all work', async () => {
      await cluster.must('volume', 'import', volume, image, ...given);
      await cluster.must('volume', 'export', volume, `${own}-${kind}-2.img`, ...given);
      expect(readFileSync(`${own}-${kind}-2.img`).equals(readFileSync(image)), 'equal bytes');
      await cluster.must('volume', 'bench', volume, '--seconds', '0.2', ...given);
      await output('nbdinfo', await cluster.must('volume', 'uri', volume, ...given));
      return 'all';
    });
  }
  await line(stage, 'qemu-img over TLS', 'equal bytes', async () => {
    const at = `driver=nbd,host=${host},port=${nbdPort},export=${volume},tls-creds=t`;
    const creds = `tls-creds-x509,dir=${pki},id=t,endpoint=client`;
    const copied = join(stage.dir, 'qemu.img');
    await output('qemu-img', 'convert', '-O', 'raw', '--object', creds, '--image-opts', at, copied);
    expect(readFileSync(copied).equals(readFileSync(image)), 'equal bytes');
    return 'equal';
  });
  await line(stage, 'the identity at the place where volumes are opened', 'both', async () => {
    const log = cluster.agent(0).log();
    const found = ['"as":"O=Test, CN=alice"', '"as":"alice"'].filter((each) => log.includes(each));
    expect(found.length === 2, found.join(' '));
    return 'CN=alice and alice';
  });
}

async function keptOut(
  stage: NbdStage,
  cluster: TestCluster,
  { pki, strangers }: { pki: string; strangers: string },
): Promise<void> {
  const { host, nbdPort } = cluster.agent(0).place;
  const by = (query: string, user = ''): string =>
    `nbds://${user}${host}:${nbdPort}/${volume}?${query}`;
  // trusts the node, and has a certificate that the node does not trust, or none
  copyFileSync(join(pki, 'ca-cert.pem'), join(strangers, 'ca-cert.pem'));
  const wrong = join(stage.dir, 'wrong.psk');
  await output('psktool', '-u', 'alice', '-p', wrong);
  const none = join(stage.dir, 'none');
  await output('install', '-D', join(pki, 'ca-cert.pem'), join(none, 'ca-cert.pem'));
  for (const [name, uri] of [
    ['in the clear', `nbd://${host}:${nbdPort}/${volume}`],
    ['a certificate of another CA', by(`tls-certificates=${strangers}`)],
    ['no certificate', by(`tls-certificates=${none}`)],
    ['a wrong key', by(`tls-psk-file=${wrong}`, 'alice@')],
    ['an unknown name', by(`tls-psk-file=${wrong}`, 'mallory@')],
  ] as const) {
    await line(stage, `kept out: ${name}`, 'refused', async () => {
      const said = await refusal('nbdinfo', uri);
      expect(!said.includes('export-size'), said);
      return 'refused';
    });
  }
}

/** Every option, in the clear, on a connection of its own: what comes back is told byte by byte. */
async function nothingServed(stage: NbdStage, cluster: TestCluster): Promise<void> {
  const { host, nbdPort } = cluster.agent(0).place;
  const go = encodeGoBody({ name: volume, infos: [0, 1, 2, 3] });
  const contexts = encodeMetaContextBody({ name: volume, queries: ['base:allocation'] });
  const options: Record<string, Buffer> = {
    LIST: encodeOption(optionType.list),
    INFO: encodeOption(optionType.info, go),
    GO: encodeOption(optionType.go, go),
    STRUCTURED_REPLY: encodeOption(optionType.structuredReply),
    EXTENDED_HEADERS: encodeOption(optionType.extendedHeaders),
    LIST_META_CONTEXT: encodeOption(optionType.listMetaContext, contexts),
    SET_META_CONTEXT: encodeOption(optionType.setMetaContext, contexts),
    'an unknown option': encodeOption(4711, Buffer.from('x')),
  };
  for (const [name, option] of Object.entries(options)) {
    await line(stage, `in the clear: ${name}`, 'ERR_TLS_REQD, nothing else', async () => {
      const abort = encodeOption(optionType.abort);
      const got = await conversation(host, nbdPort, [encodeClientFlags(3), option, abort]);
      expect(!holdsAnything(got), got.toString('latin1'));
      const type = got.readUInt32BE(greetingBytes + 12);
      expect(type === optionReplyType.errTlsReqd, `reply of type ${type.toString(16)}`);
      return 'ERR_TLS_REQD';
    });
  }
  await line(stage, 'in the clear: EXPORT_NAME and a READ', 'the connection ends', async () => {
    const read = Buffer.alloc(28);
    read.writeUInt32BE(0x25609513);
    read.writeUInt32BE(4096, 24);
    const old = encodeOption(optionType.exportName, Buffer.from(volume));
    const got = await conversation(host, nbdPort, [encodeClientFlags(3), old, read]);
    expect(got.length === greetingBytes, `${got.length} bytes`);
    return '0 bytes after the greeting';
  });
  await line(stage, 'in the clear behind STARTTLS', 'the connection ends', async () => {
    const tls = encodeOption(optionType.starttls);
    const more = [encodeOption(optionType.list), encodeOption(optionType.go, go)];
    const got = await conversation(host, nbdPort, [encodeClientFlags(3), tls, ...more]);
    expect(!holdsAnything(got), got.toString('latin1'));
    return `${got.length - greetingBytes} bytes, of the answer to STARTTLS`;
  });
}

function holdsAnything(bytes: Buffer): boolean {
  return bytes.includes(mark) || bytes.includes(volume);
}

/** Says all of it at once; what the server has said until it closes. */
function conversation(host: string, port: number, parts: readonly Buffer[]): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const got: Buffer[] = [];
    const socket = net.connect({ host, port }, () => socket.write(Buffer.concat(parts)));
    socket.on('data', (chunk) => got.push(chunk));
    socket.on('error', reject);
    socket.on('close', () => {
      resolve(Buffer.concat(got));
    });
  });
}
