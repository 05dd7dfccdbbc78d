// The conformance suite over a real socket, with a cluster and a host in memory; test/e2e/csi.test.ts runs it
// against real ones.
import t from 'tap';
import { csiConformanceSuite } from '../src/testing/index.ts';
import { driverRig } from './support/driver-rig.ts';

const { client, binds, folder } = await driverRig(t);
csiConformanceSuite(t, {
  controller: client,
  node: client,
  volumeBytes: 2 ** 30,
  parameters: { replicas: '2', fs: 'ext4' },
  folder: `${folder}/places`,
  exists: async (path) => binds.exists(path),
  prefix: 'conformance',
});
