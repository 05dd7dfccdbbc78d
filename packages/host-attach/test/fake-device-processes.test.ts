import t from 'tap';
import { deviceProcessesSuite, FakeDeviceProcesses } from '../src/testing/index.ts';
import type { DeviceSpec } from '../src/index.ts';

const MiB = 1024 * 1024;
const exportBytes = 64 * MiB;

deviceProcessesSuite(t, async (t) => {
  const processes = new FakeDeviceProcesses({ exportSizeBytes: () => exportBytes });
  const spec = (id: string): DeviceSpec => ({
    id,
    exportName: 'published:p-1:db',
    addresses: [{ path: '/run/nbd.sock' }],
    readOnly: false,
    sizeBytes: 16 * MiB,
    means: 'fuse-loop',
    dir: '/var/lib/stor/host',
  });
  return {
    processes,
    spec,
    exportBytes,
    use: async ({ id, dir }) => {
      processes.use(id, dir, ['mounted at /mnt']);
      return async () => {};
    },
    nothingLeft: ({ id }) => t.notOk(processes.list().some(({ state }) => state.id === id)),
    kill: async ({ id, dir }) => processes.kill(id, dir),
  };
});
