// The device under a replica dies while a client writes: the replica is rebuilt elsewhere at once.
import t from 'tap';
import {
  killDisk,
  type DiskFault,
  type DyingDiskOptions,
} from '../../benchmarks/src/scenarios/dying-disk.ts';
import { startCluster } from '../support/cluster.ts';
import { needs, needsLoopDevices } from '../support/needs.ts';

const cases: ({ name: string; fault: DiskFault } & DyingDiskOptions)[] = [
  {
    name: 'the file of a loop device is cut off, beside the primary',
    fault: 'truncated',
    onPrimary: true,
    spare: 'third-node',
  },
  {
    name: 'every request gets an error, on a secondary',
    fault: 'errors',
    onPrimary: false,
    spare: 'third-node',
  },
  {
    name: 'it is cut off on a secondary, and only another disk of that node is left',
    fault: 'truncated',
    onPrimary: false,
    spare: 'same-node',
  },
  {
    name: 'it is cut off beside the primary, and only another disk of that node is left',
    fault: 'truncated',
    onPrimary: true,
    spare: 'same-node',
  },
];

for (const { name, fault, ...where } of cases) {
  t.test(name, async (t) => {
    if (!needsLoopDevices(t)) return;
    if (fault === 'errors' && !needs(t, 'nbdkit', 'nbdkit')) return;
    if (fault === 'errors' && !needs(t, 'nbdfuse', 'libnbd-bin')) return;
    const cluster = await startCluster(t);
    const { rebuiltMs, disk, inspected, writer, verified, volume, removed } = await killDisk(
      cluster,
      fault,
      where,
    );
    t.comment(`${disk.status.state}: ${disk.status.message}`);
    t.comment(`rebuilt after ${Math.round(rebuiltMs)} ms`);
    t.match(inspected, /State: +fail(ed|ing): /);
    t.match(inspected, /\nnext:\n/);
    t.match(disk.status.state, /^(failed|failing)$/);
    t.not(disk.status.message, '');
    t.same(writer.errors, [], 'the client noticed nothing');
    t.same(writer.wrongReads, []);
    t.same(verified.problems, []);
    t.ok(removed);
    const nodes = volume.status.replicas.map(({ node }) => node).sort();
    t.same(nodes, where.spare === 'same-node' ? ['n1', 'n2', 'n3'] : ['n1', 'n3']);
  });
}
