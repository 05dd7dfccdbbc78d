// What the README and the pages about NBD tell users to type, typed: every line must work, over TLS too.
import { randomBytes } from 'node:crypto';
import { chmodSync, copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { checkoutRoot } from '../../benchmarks/src/harness/checkout.ts';
import { describeResult, type CommandResult } from '../../benchmarks/src/harness/run-command.ts';
import type { TestCluster } from '../../benchmarks/src/harness/test-cluster.ts';
import { startCluster } from '../support/cluster.ts';
import { adapted, codeBlocks, runShell } from '../support/doc-examples.ts';
import { needs } from '../support/needs.ts';

const MiB = 1024 * 1024;

interface Desk {
  dir: string;
  disk: Buffer;
  /** the agent's NBD over TCP */
  address: string;
  sh(lines: string, cwd?: string): Promise<CommandResult>;
  must(lines: string, cwd?: string): Promise<string>;
}

/** A folder with storctl in bin/ and on the PATH, and a disk image. */
function desk(t: Test, cluster: TestCluster): Desk {
  const dir = t.testdir();
  const disk = Buffer.concat([randomBytes(3 * MiB), Buffer.alloc(2 * MiB), randomBytes(MiB)]);
  writeFileSync(join(dir, 'disk.img'), disk);
  mkdirSync(join(dir, 'bin'));
  const storctl = join(dir, 'bin/storctl');
  const main = join(checkoutRoot(), 'packages/cli/dist/src/main.js');
  writeFileSync(storctl, `#!/bin/sh\nexec '${process.execPath}' '${main}' "$@"\n`);
  chmodSync(storctl, 0o755);
  const env = {
    STOR_ENDPOINTS: cluster.endpoints,
    PATH: `${join(dir, 'bin')}:${process.env['PATH'] ?? ''}`,
  };
  const { host, nbdPort } = cluster.agent(0).place;
  const sh = (lines: string, cwd = dir): Promise<CommandResult> => runShell(lines, { cwd, env });
  const must = async (lines: string, cwd?: string): Promise<string> => {
    const result = await sh(lines, cwd);
    if (result.code !== 0) throw new Error(describeResult(result));
    return result.stdout;
  };
  return { dir, disk, address: `${host}:${nbdPort}`, sh, must };
}

function hasClients(t: Test): boolean {
  return (
    needs(t, 'nbdinfo', 'libnbd-bin') &&
    needs(t, 'qemu-img', 'qemu-utils') &&
    needs(t, 'fio', 'fio')
  );
}

/** `count`: so many blocks there are, so that one that moves or is renamed is missed here. */
function examples(t: Test, page: string, pattern: RegExp, count: number): string[] {
  const blocks = codeBlocks(page, pattern);
  t.equal(blocks.length, count, `${page} has ${count} of these examples`);
  return blocks;
}

t.test('the README and docs/nbd.md', async (t) => {
  if (!hasClients(t)) return;
  const cluster = await startCluster(t, { nodes: 1 });
  const { dir, disk, must } = desk(t, cluster);
  await cluster.must('volume', 'create', 'db', '--size', '64MiB', '--replicas', '1');
  const [copies, clients] = examples(t, 'README.md', /volume import|volume uri/, 2);
  await must(copies ?? '');
  const out = readFileSync(join(dir, 'out.img'));
  t.ok(out.subarray(0, disk.length).equals(disk), 'the image came back');
  await must(adapted(clients ?? '', [['--size=1g', '--size=4m']]));
  await cluster.must('snapshot', 'create', 'db@monday');
  const [snapshots, changes] = examples(t, 'docs/nbd.md', /^(nbdinfo|storctl)/m, 2);
  const { host, nbdPort, dir: home } = cluster.agent(0).place;
  const there = ['127.0.0.1:17113', `${host}:${nbdPort}`] as const;
  const list = await must(
    adapted(snapshots ?? '', [there, ['/path/to/nbd.sock', join(home, 'run/nbd-0.sock')]]),
  );
  t.match(list, /export="db"[\s\S]*export="db@monday"/);
  const raw = readFileSync(join(dir, 'monday.raw'));
  t.ok(raw.subarray(5 * MiB, 6 * MiB).equals(disk.subarray(5 * MiB)), 'what fio left alone');
  t.match(await must(adapted(changes ?? '', [there])), /67108864\s+0/, 'nothing is dirty');
});

t.test('docs/operating/tls.md', async (t) => {
  if (!hasClients(t) || !needs(t, 'psktool', 'gnutls-bin') || !needs(t, 'openssl', 'openssl')) {
    return;
  }
  const cluster = await startCluster(t, { nodes: 1 });
  const { dir, disk, address, sh, must } = desk(t, cluster);
  const agent = cluster.agent(0);
  const { host, nbdPort } = agent.place;
  const plain = readFileSync(agent.configPath, 'utf8');
  const etc = join(dir, 'tls');
  const pki = join(dir, 'pki');
  const [makeKeys, useKeys] = examples(t, 'docs/operating/tls.md', /psktool -u|tls-psk-file/, 2);
  const [makeCertificates] = examples(t, 'docs/operating/tls.md', /^openssl/m, 1);
  const [useCertificates] = examples(t, 'docs/operating/tls.md', /tls-certificates/, 1);
  const [byKeys, byCertificates] = examples(t, 'docs/operating/tls.md', /^nbd:/, 2);
  const there = ['10.0.0.1:17113', address] as const;
  /** Starts the agent with what the page says of its configuration. */
  const serve = async (yaml: string): Promise<void> => {
    await agent.stop();
    writeFileSync(agent.configPath, plain + adapted(yaml, [['/etc/stor/tls', etc]]));
    agent.start();
    await agent.waitReady();
    await cluster.waitFit();
  };
  const uris = async (): Promise<string[]> => {
    const { status } = await cluster.inspect('db');
    return [status.nbdUri, await cluster.must('volume', 'uri', 'db', '--node', 'n1')];
  };
  await cluster.must('volume', 'create', 'db', '--size', '64MiB', '--replicas', '1');
  t.same(await uris(), [`nbd://${address}/db`, `nbd://${address}/db`]);
  await must(adapted(makeKeys ?? '', [['/etc/stor/tls', etc]]));
  await must(adapted(makeCertificates ?? '', [['IP:10.0.0.1', 'IP:127.0.0.1']]), etc);
  mkdirSync(pki);
  for (const file of ['ca-cert.pem', 'client-cert.pem', 'client-key.pem']) {
    copyFileSync(join(etc, file), join(pki, file));
  }

  await t.test('keys', async (t) => {
    await serve(byKeys ?? '');
    t.same(await uris(), [`nbds://${address}/db`, `nbds://${address}/db`]);
    t.match(await cluster.must('node', 'inspect', 'n1'), /NBD over TLS: +required/);
    const inParts = ['host=10.0.0.1,port=17113', `host=${host},port=${nbdPort}`] as const;
    await must(adapted(useKeys ?? '', [there, inParts, ['/etc/stor/tls', etc]]));
    t.equal(readFileSync(join(dir, 'db.img')).length, 64 * MiB);
    const given = '--tls-psk-file keys.psk --tls-username alice';
    await must(`storctl volume import db disk.img ${given}`);
    await must(`storctl volume bench db --seconds 0.1 ${given}`);
    await must(`nbdcopy "$(storctl volume uri db ${given})" copied.img`);
    t.ok(readFileSync(join(dir, 'copied.img')).subarray(0, disk.length).equals(disk));
    t.match(agent.log(), /"as":"alice"/, 'who it is gets to where volumes are opened');
    for (const [line, reason] of [
      ['storctl volume export db no.img', /TLS/],
      ['storctl volume export db no.img --tls-psk-file keys.psk --tls-username bob', /bob/],
      [`nbdinfo nbd://${address}/db`, /not supported/],
      [`nbdinfo --list nbd://${address}/`, /not supported/],
    ] as const) {
      const refused = await sh(line);
      t.not(refused.code, 0, line);
      t.match(refused.stderr, reason);
    }
  });

  await t.test('certificates', async (t) => {
    await serve(byCertificates ?? '');
    await must(adapted(useCertificates ?? '', [there, ['/home/alice/pki', pki]]));
    await must(`storctl volume export db again.img --tls-certificates ${pki}`);
    t.ok(readFileSync(join(dir, 'again.img')).subarray(0, disk.length).equals(disk));
    t.match(agent.log(), /"as":"CN=alice"/);
  });
});
