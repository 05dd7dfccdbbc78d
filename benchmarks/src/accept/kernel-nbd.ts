import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { AcceptReport, seconds } from '../harness/accept-report.ts';
import { runCommand } from '../harness/run-command.ts';
import { TestCluster } from '../harness/test-cluster.ts';
import { waitFor } from '../harness/wait-for.ts';
import { Guest } from './kernel-nbd/guest.ts';
import { buildGuestImage, findKernel } from './kernel-nbd/guest-image.ts';

/** Devices by the kernel's NBD, in a virtual machine with Debian's kernel; the agents run outside of it. */
const usualKills = 3;
const { values } = parseArgs({
  options: {
    root: { type: 'string', default: '/' },
    kills: { type: 'string', default: String(usualKills) },
  },
});

const MiB = 1024 * 1024;
/** Kills of the serving agent, one after another. */
const kills = Number(values.kills);
const report = new AcceptReport();
/** where a guest of QEMU's user network finds the host's 127.0.0.1 */
const hostAddress = '10.0.2.2';

function quoted(value: unknown): string {
  return `'${JSON.stringify(value)}'`;
}

async function writtenFiles(guest: Guest): Promise<number> {
  const said = await guest.run('cat /tmp/count 2>/dev/null || echo 0');
  if (!/^\d*$/.test(said)) throw new Error(`the guest counts ${JSON.stringify(said)} files`);
  return Number(said);
}

/** The longest that a file took, more or less (ms). */
async function goesOn(guest: Guest, name: string): Promise<void> {
  const before = await writtenFiles(guest);
  const startMs = performance.now();
  await waitFor('more files', async () => (await writtenFiles(guest)) > before + 3, {
    deadlineMs: 90_000,
    intervalMs: 200,
  });
  const failed = await guest.run('cat /tmp/failed 2>/dev/null || true');
  const tookMs = performance.now() - startMs;
  report.add(name, `goes on after ${seconds(tookMs)}`, 'goes on, no error', failed === '');
}

/** What the guest's program gives to the device process. */
interface DeviceSpec {
  id: string;
  exportName: string;
  addresses: { host: string; port: number }[];
  readOnly: boolean;
  sizeBytes: number;
  means: string;
  dir: string;
}

interface Attached {
  spec: DeviceSpec;
  path: string;
}

async function attach(cluster: TestCluster, guest: Guest): Promise<Attached> {
  await cluster.must('volume', 'create', 'db', '--size', '128MiB', '--replicas', '3');
  const told = await cluster.must('volume', 'publish', 'db', '--node', 'n1', '-o', 'json');
  const { status } = JSON.parse(told) as { status: { publications: { exportName: string }[] } };
  const spec: DeviceSpec = {
    id: 'db',
    exportName: status.publications[0]?.exportName ?? '',
    addresses: cluster.agents.map(({ place }) => ({ host: hostAddress, port: place.nbdPort })),
    readOnly: false,
    sizeBytes: 128 * MiB,
    means: 'nbd-kernel',
    dir: '/tmp/dev',
  };
  const startMs = performance.now();
  const said = JSON.parse(await guest.run(`node /device.mjs start ${quoted(spec)}`)) as {
    path: string;
    means: string;
  };
  report.add(
    'attached',
    `${said.path} after ${seconds(performance.now() - startMs)}`,
    'a device of nbd.ko',
    said.path.startsWith('/dev/nbd'),
  );
  const queues = Number(await guest.run(`ls /sys/block/${said.path.slice(5)}/mq | wc -l`));
  report.add('connections of the kernel', String(queues), 'several', queues > 1);
  await guest.run(`/usr/sbin/mke2fs -q -t ext4 -b 4096 ${said.path}`);
  await guest.run(`mount -t ext4 ${said.path} /mnt`);
  await guest.run('touch /tmp/sums; setsid sh /writer.sh > /dev/null 2>&1 &');
  await goesOn(guest, 'a file system, written with fsync');

  return { spec, path: said.path };
}

async function failures(cluster: TestCluster, guest: Guest): Promise<void> {
  const first = (await cluster.primary('db')) ?? 0;
  await cluster.agent(first).stop();
  cluster.agent(first).start();
  await goesOn(guest, 'the agent restarts in order');
  await cluster.agent(first).waitReady();
  await cluster.waitHealth('db', 'healthy');

  for (let kill = 1; kill <= kills; kill += 1) {
    const second = (await cluster.primary('db')) ?? 0;
    await cluster.agent(second).kill9();
    await goesOn(guest, `kill -9 of the agent that serves, ${kill} of ${kills}`);
    const third = await cluster.primary('db');
    report.add(
      'served by',
      `n${(third ?? -1) + 1} instead of n${second + 1}`,
      'another',
      third !== second,
    );
    cluster.agent(second).start();
    await cluster.agent(second).waitReady();
    await cluster.waitHealth('db', 'healthy');
  }
}

async function growth(
  cluster: TestCluster,
  guest: Guest,
  { spec, path }: Attached,
): Promise<Attached> {
  await cluster.must('volume', 'resize', 'db', '192MiB');
  const grown = { ...spec, sizeBytes: 192 * MiB };
  await guest.run(`node /device.mjs grow ${quoted(grown)}`);
  const sectors = Number(await guest.run(`cat /sys/block/${path.slice(5)}/size`));
  report.add(
    'grown in use',
    `${(sectors * 512) / MiB} MiB`,
    '192 MiB',
    sectors * 512 === 192 * MiB,
  );
  await guest.run(`/usr/sbin/resize2fs ${path}`);
  await goesOn(guest, 'written after it has grown');
  return { spec: grown, path };
}

async function wrongFiles(guest: Guest): Promise<string> {
  return guest.run('cd /mnt; md5sum -c /tmp/sums 2>&1 | grep -v ": OK" || true');
}

async function check(guest: Guest, { path }: Attached): Promise<void> {
  await guest.run('touch /tmp/stop; while [ ! -e /tmp/done ]; do sleep 0.1; done; umount /mnt');
  await guest.run('echo 3 > /proc/sys/vm/drop_caches');
  const checked = await guest.run(`/usr/sbin/e2fsck -fn ${path} > /tmp/fsck 2>&1; echo $?`);
  report.add('e2fsck -f', `ends with ${checked}`, '0', checked === '0');
  await guest.run(`mount -t ext4 -o ro ${path} /mnt`);
  const wrong = await wrongFiles(guest);
  const files = await guest.run('wc -l < /tmp/sums');
  if (wrong !== '') process.stderr.write(`${wrong}\n`);
  report.add(
    'what was made durable',
    `${files} files, ${wrong === '' ? 0 : 'some'} wrong`,
    'right',
    wrong === '',
  );
  const errors = await guest.run('dmesg | grep -iE "i/o error|ext4-fs error|nbd.*dead" || true');
  if (errors !== '') process.stderr.write(`${errors}\n`);
  report.add('errors in the kernel’s log', errors === '' ? 'none' : 'some', 'none', errors === '');
}

/** What a device process leaves that is killed, as the agent that looks for it next clears it away. */
async function deviceProcessKilled(guest: Guest, { spec, path }: Attached): Promise<void> {
  const pid = await guest.run('sed \'s/.*"pid":\\([0-9]*\\).*/\\1/\' /tmp/dev/db.process.json');
  await guest.run(`kill -9 ${pid}; while [ -e /proc/${pid}/exe ]; do sleep 0.1; done`);
  await guest.run('echo 3 > /proc/sys/vm/drop_caches');
  const reads = `(dd if=${path} of=/dev/null bs=64k count=1 iflag=direct; echo $? > /tmp/read) 2> /dev/null`;
  await guest.run(`rm -f /tmp/read; ${reads} &`);
  const found = await guest.run(`node /device.mjs find ${quoted(spec)}`);
  await guest.run('while [ ! -s /tmp/read ]; do sleep 0.1; done');
  const read = await guest.run('cat /tmp/read');
  report.add(
    'kill -9 of the device process',
    found === 'null' && read !== '0' ? 'found out, and a read fails' : `${found}, ${read}`,
    'requests fail',
    found === 'null' && read !== '0',
  );
  await guest.run('umount /mnt');
  const said = await guest.run(`node /device.mjs start ${quoted(spec)}`);
  const again = (JSON.parse(said) as { path: string }).path;
  await guest.run(`mount -t ext4 -o ro ${again} /mnt`);
  const wrong = await wrongFiles(guest);
  if (wrong !== '') process.stderr.write(`${wrong}\n`);
  report.add(
    'made and mounted again',
    `${wrong === '' ? 0 : 'some'} files wrong`,
    '0',
    wrong === '',
  );
}

async function goodbye(guest: Guest, { spec, path }: Attached): Promise<void> {
  const busy = await guest.run(`node /device.mjs stop ${quoted(spec)} 2>&1 || true`);
  const isRefused = busy.includes('mounted at /mnt');
  report.add('taken away while mounted', isRefused ? 'refused' : busy, 'refused', isRefused);
  await guest.run('umount /mnt');
  await guest.run(`node /device.mjs stop ${quoted(spec)}`);
  const left = await guest.run(
    `cat /sys/block/${path.slice(5)}/pid /tmp/dev/*.json 2>/dev/null; ls /tmp/dev | grep -v .log; ps | grep stor-devic[e]; true`,
  );
  report.add(
    'after it was taken away',
    left === '' ? 'nothing is left' : left,
    'nothing',
    left === '',
  );
}

async function proof(cluster: TestCluster, guest: Guest): Promise<void> {
  const attached = await attach(cluster, guest);
  await failures(cluster, guest);
  const grown = await growth(cluster, guest, attached);
  await check(guest, grown);
  await deviceProcessKilled(guest, grown);
  await goodbye(guest, grown);
}

async function main(): Promise<void> {
  const kernel = findKernel(values.root);
  const hasQemu = await runCommand('qemu-system-x86_64', ['--version']).then(
    ({ code }) => code === 0,
    () => false,
  );
  if (!kernel || !hasQemu) {
    process.stdout.write(
      `SKIPPED: ${hasQemu ? `no kernel with nbd.ko below ${values.root}` : 'no qemu-system-x86_64'}. apt-get install qemu-system-x86, and apt-get download linux-image-cloud-amd64's package, dpkg -x it into a folder, and give that with --root\n`,
    );
    return;
  }
  const dir = mkdtempSync(join(tmpdir(), 'stor-guest-'));
  const cluster = await TestCluster.create({ dir: join(dir, 'cluster') });
  let guest: Guest | null = null;
  const startMs = performance.now();
  try {
    const [image] = await Promise.all([
      buildGuestImage(dir, values.root, kernel.version),
      cluster.start(),
    ]);
    guest = await Guest.boot(kernel.image, image);
    const booted = guest;
    report.add('guest', kernel.version, 'boots', true);
    await report.part('kernel-nbd', async () => {
      try {
        await proof(cluster, booted);
      } catch (error) {
        const log = await booted.run('cat /tmp/dev/*.log; dmesg | tail -30').catch(() => '');
        process.stderr.write(`${log}\n${cluster.logTails()}\n`);
        throw error;
      }
    });
    const tookMs = performance.now() - startMs;
    if (kills <= usualKills) {
      report.add('all of it', seconds(tookMs), 'under 5 min', tookMs < 300_000);
    }
  } finally {
    await guest?.close();
    await cluster.close();
    rmSync(dir, { recursive: true, force: true });
  }
  process.exitCode = report.finish() ? 0 : 1;
}

await main();
