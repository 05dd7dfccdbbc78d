import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { checkoutRoot } from '../../harness/checkout.ts';
import { mustRun } from '../../harness/run-command.ts';

/** Modules of Debian's cloud kernel that the guest's network needs, in the order of their needs. */
const networkModules = [
  ...['drivers/virtio/virtio_ring.ko', 'drivers/virtio/virtio.ko'],
  ...['drivers/virtio/virtio_pci_legacy_dev.ko', 'drivers/virtio/virtio_pci_modern_dev.ko'],
  ...['drivers/virtio/virtio_pci.ko', 'net/core/failover.ko', 'drivers/net/net_failover.ko'],
  'drivers/net/virtio_net.ko',
];
const nbdModule = 'kernel/drivers/block/nbd.ko';
const programs = ['/usr/sbin/mke2fs', '/usr/sbin/e2fsck', '/usr/sbin/resize2fs'];
/** What Node's native modules load beside what Node itself does. */
const libraries = '/lib/x86_64-linux-gnu';
const nativeLibraries = [
  'librt.so.1',
  'libpthread.so.0',
  'libdl.so.2',
  'libm.so.6',
  'libgcc_s.so.1',
];
/** Packages of this checkout that a device process is made of. */
const ownPackages = ['host-attach', 'nbd-client-js', 'protocol', 'runtime'];

/** A kernel and its modules, installed or unpacked from the package in `root`. Null: there is none. */
export function findKernel(root: string): { image: string; version: string } | null {
  const boot = join(root, 'boot');
  const images = existsSync(boot) ? readdirSync(boot) : [];
  for (const name of images.filter((file) => file.startsWith('vmlinuz-')).sort()) {
    const version = name.slice('vmlinuz-'.length);
    if (existsSync(join(root, 'lib/modules', version, nbdModule))) {
      return { image: join(boot, name), version };
    }
  }
  return null;
}

/**
 * A file system in memory for the guest: busybox, Node, this checkout's device process, e2fsprogs and the
 * modules. Its first program carries out lines that come over the serial port.
 */
export async function buildGuestImage(dir: string, root: string, version: string): Promise<string> {
  const tree = join(dir, 'tree');
  for (const name of ['bin', 'proc', 'sys', 'dev', 'tmp', 'mnt', 'etc', 'usr/bin', 'usr/sbin']) {
    mkdirSync(join(tree, name), { recursive: true });
  }
  await copyProgram('/bin/busybox', tree, '/bin/busybox');
  await copyProgram(realpathSync(process.execPath), tree, '/usr/bin/node');
  for (const program of programs) await copyProgram(realpathSync(program), tree, program);
  for (const name of nativeLibraries)
    copy(realpathSync(join(libraries, name)), join(tree, libraries, name));
  const modules = join(root, 'lib/modules', version);
  for (const file of [nbdModule, ...networkModules.map((name) => `kernel/${name}`)]) {
    copy(join(modules, file), join(tree, 'lib/modules', version, file));
  }
  writeFileSync(join(tree, 'lib/modules', version, 'modules.dep'), `${nbdModule}:\n`);
  copyCheckout(tree);
  writeFileSync(join(tree, 'device.mjs'), deviceProgram);
  writeFileSync(join(tree, 'writer.sh'), writerProgram);
  writeFileSync(join(tree, 'init'), initProgram(version));
  chmodSync(join(tree, 'init'), 0o755);
  const image = join(dir, 'initrd');
  await mustRun('sh', ['-c', `cd ${tree} && find . | busybox cpio -o -H newc > ${image}`]);
  return image;
}

async function copyProgram(file: string, tree: string, at: string): Promise<void> {
  copy(file, join(tree, at));
  const { stdout } = await mustRun('sh', ['-c', `ldd ${file} 2>/dev/null || true`]);
  for (const [, library = ''] of stdout.matchAll(/(\/\S+\.so\S*)/g)) {
    if (!existsSync(join(tree, library))) copy(realpathSync(library), join(tree, library));
  }
}

function copy(from: string, to: string): void {
  mkdirSync(dirname(to), { recursive: true });
  cpSync(from, to, { recursive: true, verbatimSymlinks: true });
}

/** What is compiled of the packages, and what they import, found as Node finds it. */
function copyCheckout(tree: string): void {
  const checkout = checkoutRoot();
  const seen = new Set<string>();
  const copyLinked = (modules: string): void => {
    if (!existsSync(modules)) return;
    const names = readdirSync(modules).flatMap((name) =>
      name.startsWith('@') ? readdirSync(join(modules, name)).map((at) => join(name, at)) : [name],
    );
    for (const name of names.filter((each) => !basename(each).startsWith('.'))) {
      const place = realpathSync(join(modules, name));
      const inside = relative(checkout, place);
      copy(join(modules, name), join(tree, 'stor', relative(checkout, join(modules, name))));
      if (inside.startsWith('packages') || seen.has(place)) continue;
      seen.add(place);
      copy(place, join(tree, 'stor', inside));
      copyLinked(name.startsWith('@') ? dirname(dirname(place)) : dirname(place));
    }
  };
  for (const name of ownPackages) {
    const own = join('packages', name);
    copy(join(checkout, own, 'dist/src'), join(tree, 'stor', own, 'dist/src'));
    copy(join(checkout, own, 'package.json'), join(tree, 'stor', own, 'package.json'));
    copyLinked(join(checkout, own, 'node_modules'));
  }
}

const initProgram = (version: string): string => `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/bin HOME=/tmp
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
stty -F /dev/ttyS0 raw -echo
for m in ${networkModules.join(' ')}; do insmod /lib/modules/${version}/kernel/$m; done
ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
echo @ready
while read -r line; do
  sh -c "$line" > /tmp/out 2>&1 < /dev/null; rc=$?
  cat /tmp/out; echo "@end $rc"
done
poweroff -f
`;

/** `device.mjs start|grow|find|stop JSON` */
const deviceProgram = `
import { SystemDeviceProcesses } from '/stor/packages/host-attach/dist/src/device/system-device-processes.js';
const [, , verb, text] = process.argv;
const spec = JSON.parse(text);
const { id, dir } = spec;
const { signal } = new AbortController();
const processes = new SystemDeviceProcesses();
let said;
if (verb === 'start') said = await processes.start(spec, signal);
if (verb === 'find') said = await processes.find(id, dir, signal);
if (verb === 'grow') said = await processes.grow(id, dir, spec.sizeBytes, signal);
if (verb === 'stop') said = await processes.stop(id, dir, {}, signal);
console.log(JSON.stringify(said ?? null));
process.exit(0);
`;

/** Files with fsync, one after another; what was made durable is known by its sum. */
const writerProgram = `
n=0
while [ ! -e /tmp/stop ]; do
  f=file-$((n % 50))
  sed -i "/ $f\\$/d" /tmp/sums
  head -c 40000 /dev/urandom > /tmp/new
  dd if=/tmp/new of=/mnt/$f bs=8k conv=fsync 2>> /tmp/errors || { echo failed >> /tmp/failed; break; }
  (cd /tmp; md5sum new | sed "s/new/$f/") >> /tmp/sums
  n=$((n + 1)); echo $n > /tmp/count
done
echo done > /tmp/done
`;
