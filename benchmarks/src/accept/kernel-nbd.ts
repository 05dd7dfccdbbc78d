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
const { values } = parseArgs({ options: { root: { type: 'string', default: '/' } } });

const MiB = 1024 * 1024;
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

  const second = (await cluster.primary('db')) ?? 0;
  await cluster.agent(second).kill9();
  await goesOn(guest, 'kill -9 of the agent that serves');
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

async function growth(cluster: TestCluster, guest: Guest, { spec, path }: Attached): Promise<void> {
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
}

async function check(guest: Guest, { spec, path }: Attached): Promise<void> {
  await guest.run('touch /tmp/stop; while [ ! -e /tmp/done ]; do sleep 0.1; done; umount /mnt');
  await guest.run('echo 3 > /proc/sys/vm/drop_caches');
  const checked = await guest.run(`/usr/sbin/e2fsck -fn ${path} > /tmp/fsck 2>&1; echo $?`);
  report.add('e2fsck -f', `ends with ${checked}`, '0', checked === '0');
  await guest.run(`mount -t ext4 -o ro ${path} /mnt`);
  const wrong = await guest.run('cd /mnt; md5sum -c /tmp/sums 2>&1 | grep -v ": OK" || true');
  const files = await guest.run('wc -l < /tmp/sums');
  if (wrong !== '') process.stderr.write(`${wrong}\n`);
  report.add(
    'what was made durable',
    `${files} files, ${wrong === '' ? 0 : 'some'} wrong`,
    'right',
    wrong === '',
  );
  const errors = await guest.run('dmesg | grep -iE "i/o error|ext4-fs error" || true');
  if (errors !== '') process.stderr.write(`${errors}\n`);
  report.add('errors in the kernel’s log', errors === '' ? 'none' : 'some', 'none', errors === '');
  const busy = await guest.run(`node /device.mjs stop ${quoted(spec)} 2>&1 || true`);
  report.add('taken away while mounted', 'refused', 'refused', busy.includes('mounted at /mnt'));
  await guest.run('umount /mnt');
  await guest.run(`node /device.mjs stop ${quoted(spec)}`);
  const left = await guest.run(
    `cat /sys/block/${path.slice(5)}/pid /tmp/dev/*.json 2>/dev/null || true`,
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
  await growth(cluster, guest, attached);
  await check(guest, attached);
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
    report.add('all of it', seconds(tookMs), 'under 5 min', tookMs < 300_000);
  } finally {
    await guest?.close();
    await cluster.close();
    rmSync(dir, { recursive: true, force: true });
  }
  process.exitCode = report.finish() ? 0 : 1;
}

await main();
