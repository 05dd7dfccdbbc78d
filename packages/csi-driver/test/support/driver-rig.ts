import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FakeHostVolumes } from '@stor/host-attach/testing';
import type { Node } from '@stor/protocol';
import { silentLogger, systemClock } from '@stor/runtime';
import type { Test } from 'tap';
import { CsiDriver } from '../../src/index.ts';
import type { CsiDriverOptions } from '../../src/index.ts';
import { CsiClient, FakeHostBinds, MemoryCluster } from '../../src/testing/index.ts';

/** A driver on a real socket, with a cluster and a host in memory behind it. */
export interface DriverRig {
  cluster: MemoryCluster;
  nodes: Node[];
  host: FakeHostVolumes;
  binds: FakeHostBinds;
  client: CsiClient;
  driver: CsiDriver;
  folder: string;
  /** Another driver on the same cluster and host, as after a restart. */
  restart(): Promise<void>;
}

export async function driverRig(t: Test, more: Partial<CsiDriverOptions> = {}): Promise<DriverRig> {
  const folder = await mkdtemp(join(tmpdir(), 'stor-csi-'));
  const cluster = new MemoryCluster();
  const nodes = [
    cluster.addNode('n1', { zone: 'a', rack: 'r1' }),
    cluster.addNode('n2', { zone: 'b' }),
    cluster.addNode('n3', { zone: 'b', rack: 'not a segment!' }),
  ];
  const nodeId = nodes[0]?.metadata.id ?? '';
  const host = new FakeHostVolumes(cluster.volumes, nodeId);
  const binds = new FakeHostBinds();
  const options: CsiDriverOptions = {
    endpoints: { endpoint: join(folder, 'csi.sock') },
    ...{ nodeId, clusterId: cluster.clusterId, version: '1.2.3' },
    ...{ api: cluster, host, binds, clock: systemClock, logger: silentLogger },
    ...more,
  };
  const open = async (): Promise<Pick<DriverRig, 'driver' | 'client'>> => {
    const driver = await CsiDriver.open(options);
    return { driver, client: await CsiClient.open(join(folder, 'csi.sock')) };
  };
  const rig: DriverRig = {
    ...{ cluster, nodes, host, binds, folder },
    ...(await open()),
    restart: async () => {
      rig.client.close();
      await rig.driver.close();
      Object.assign(rig, await open());
    },
  };
  t.teardown(async () => {
    rig.client.close();
    await rig.driver.close();
    await rm(folder, { recursive: true, force: true });
  });
  return rig;
}
