// The CSI driver of real agents, over its sockets: the conformance suite on real devices, and what happens to a
// volume when its agent restarts or its workload moves.
import { appendFileSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { lstat, open, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { runCommand } from '../../benchmarks/src/harness/run-command.ts';
import { mountsBelow, shareMounts } from '../../benchmarks/src/harness/shared-folder.ts';
import { TestCluster } from '../../benchmarks/src/harness/test-cluster.ts';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { csiConformanceSuite, CsiClient } from '../../packages/csi-driver/src/testing/index.ts';
import { mountTable } from '../../packages/host-attach/src/device/mount-table.ts';
import { SystemDeviceProcesses } from '../../packages/host-attach/src/index.ts';
import { ensureBuilt } from '../support/cluster.ts';
import { needs, needsFuseDevices } from '../support/needs.ts';

/** The smallest for XFS, which needs less of the kernel to grow than ext4 (CAP_SYS_RESOURCE). */
const volumeBytes = 320 * 2 ** 20;
const { signal } = new AbortController();

interface CsiCluster {
  cluster: TestCluster;
  /** of the driver of a node */
  client(index: number): Promise<CsiClient>;
  /** for staging and targets */
  folder: string;
}

const socketOf = (cluster: TestCluster, index: number): string =>
  join(cluster.agent(index).place.dir, 'run/csi.sock');

/** Three agents, two of them drivers. Whatever happens, no mount and no device is left. */
async function csiCluster(t: Test): Promise<CsiCluster> {
  ensureBuilt();
  const cluster = await TestCluster.create();
  const folder = mkdtempSync(join(tmpdir(), 'stor-csi-'));
  const clients: CsiClient[] = [];
  t.teardown(async () => {
    if (!t.passing()) for (const line of cluster.logTails().split('\n')) t.comment(line);
    for (const client of clients) client.close();
    for (const target of mountsBelow(folder)) await runCommand('umount', ['-l', target]);
    await stopDevices(cluster);
    await cluster.close();
    rmSync(folder, { recursive: true, force: true });
  });
  // what is unmounted here is so in the namespaces of engines that other tests run, too
  await shareMounts(folder);
  for (const index of [0, 1]) {
    const { configPath } = cluster.agent(index);
    appendFileSync(configPath, `csi: { endpoint: '${socketOf(cluster, index)}' }\n`);
  }
  await cluster.start();
  const client = async (index: number): Promise<CsiClient> => {
    const opened = await CsiClient.open(socketOf(cluster, index));
    clients.push(opened);
    return opened;
  };
  return { cluster, client, folder };
}

async function stopDevices(cluster: TestCluster): Promise<void> {
  const processes = new SystemDeviceProcesses();
  for (const agent of cluster.agents) {
    const folder = join(agent.dataDir, 'host');
    const names = existsSync(folder) ? readdirSync(folder) : [];
    for (const name of names.filter((each) => each.endsWith('.sock'))) {
      await processes.stop(name.replace('.sock', ''), folder, { force: true }, signal);
    }
  }
}

async function writeSynced(path: string, text: string): Promise<void> {
  const file = await open(path, 'w');
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}

t.test('the CSI driver on real devices', async (t) => {
  if (!needsFuseDevices(t) || !needs(t, 'mkfs.xfs', 'xfsprogs')) return;
  const { cluster, client, folder } = await csiCluster(t);
  const first = await client(0);

  await t.test('conformance', async (t) => {
    csiConformanceSuite(t, {
      controller: first,
      node: first,
      volumeBytes,
      parameters: { replicas: '1', fs: 'xfs' },
      folder,
      exists: (path) =>
        lstat(path).then(
          () => true,
          () => false,
        ),
      prefix: 'conformance',
    });
  });

  await t.test('a workload and its data go from host to host', async (t) => {
    const volumeCapability = { mount: { volumeMountGroup: '4321' }, accessMode: { mode: 7 } };
    const { volume } = await first.call<{ volume: { volumeId: string } }>(
      'Controller.CreateVolume',
      {
        name: 'pvc-moving',
        capacityRange: { requiredBytes: volumeBytes },
        volumeCapabilities: [volumeCapability],
        parameters: { replicas: '3', fs: 'xfs', 'qos.iops': 'unlimited' },
      },
    );
    const { volumeId } = volume;
    const places = (name: string): { stagingTargetPath: string; targetPath: string } => ({
      stagingTargetPath: join(folder, name, 'stage'),
      targetPath: join(folder, name, 'pod'),
    });
    const nodeOf = (index: number): string => cluster.agent(index).place.nodeId;
    const begin = async (driver: CsiClient, index: number, name: string): Promise<string> => {
      const order = { volumeId, volumeCapability, ...places(name) };
      const published = { ...order, nodeId: nodeOf(index) };
      await driver.call('Controller.ControllerPublishVolume', published);
      await driver.call('Node.NodeStageVolume', order);
      await driver.call('Node.NodePublishVolume', order);
      return order.targetPath;
    };
    const target = await begin(first, 0, 'one');
    t.equal((await lstat(target)).gid, 4_321);
    await writeSynced(join(target, 'file'), 'hello');

    await cluster.agent(0).kill9();
    await writeSynced(join(target, 'more'), 'without an agent');
    cluster.agent(0).start();
    await cluster.agent(0).waitReady();
    const again = await client(0);
    const { usage } = await again.call<{ usage: { total: number }[] }>('Node.NodeGetVolumeStats', {
      volumeId,
      volumePath: target,
    });
    t.ok((usage[0]?.total ?? 0) > 0, 'it knows what the agent before it has made');
    await begin(again, 0, 'one');

    const second = await client(1);
    const elsewhere = { volumeId, volumeCapability, nodeId: nodeOf(1) };
    const refused = await second.outcome('Controller.ControllerPublishVolume', elsewhere);
    t.match(refused, { code: 'FAILED_PRECONDITION', message: /node n1/ });
    const order = { volumeId, ...places('one') };
    await again.call('Node.NodeUnpublishVolume', order);
    await again.call('Node.NodeUnstageVolume', order);
    // whichever driver is asked
    await second.call('Controller.ControllerUnpublishVolume', { volumeId, nodeId: nodeOf(0) });
    const there = await begin(second, 1, 'two');
    t.equal(await readFile(join(there, 'file'), 'utf8'), 'hello');
    t.equal(await readFile(join(there, 'more'), 'utf8'), 'without an agent');
    await writeSynced(join(there, 'last'), 'from n2');

    // its agent dies; the host and its device live on, and nobody unstages anything
    await cluster.agent(1).kill9();
    await writeSynced(join(there, 'alive'), 'still there');
    const lostNode = { volumeId, nodeId: nodeOf(1) };
    await waitFor('n2 to be down', async () => {
      const code = await again.codeOf('Controller.ControllerUnpublishVolume', lostNode);
      return code === 'OK';
    });
    const back = await begin(again, 0, 'three');
    t.equal(await readFile(join(back, 'last'), 'utf8'), 'from n2');
    t.equal(await readFile(join(back, 'alive'), 'utf8'), 'still there');
    await writeSynced(join(back, 'new'), 'from n1');
    await t.rejects(writeSynced(join(there, 'old'), 'too late'), 'the old host is fenced');
    cluster.agent(1).start();
    await cluster.agent(1).waitReady();
    const late = await client(1);
    const left = { volumeId, ...places('two') };
    await late.call('Node.NodeUnpublishVolume', left);
    await late.call('Node.NodeUnstageVolume', left);
    t.equal(existsSync(left.targetPath), false, 'and can be tidied');
    t.equal(await readFile(join(back, 'new'), 'utf8'), 'from n1');
    t.equal(existsSync(join(back, 'old')), false);
    const end = { volumeId, ...places('three') };
    await again.call('Node.NodeUnpublishVolume', end);
    await again.call('Node.NodeUnstageVolume', end);
    await again.call('Controller.ControllerUnpublishVolume', { volumeId });
    await again.call('Controller.DeleteVolume', { volumeId });
  });

  const ours = mountTable().filter(({ target }) => target.startsWith(`${folder}/`));
  t.same(ours, [], 'no mount is left');
  for (const agent of cluster.agents) {
    const host = join(agent.dataDir, 'host');
    const left = existsSync(host) ? readdirSync(host) : [];
    t.same(
      left.filter((name) => name.endsWith('.sock')),
      [],
      'no device is left',
    );
  }
});
