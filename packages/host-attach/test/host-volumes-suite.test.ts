// The same orders on the real devices and mounts, over a host in memory, and on the fake.
import t from 'tap';
import {
  FakeHostVolumes,
  hostVolumesSuite,
  MemoryVolumes,
  type HostsUnderTest,
} from '../src/testing/index.ts';
import { HostWorld } from './support/host-world.ts';

function fakeHosts(): HostsUnderTest {
  const volumes = new MemoryVolumes();
  const n1 = new FakeHostVolumes(volumes, volumes.addNode('n1').metadata.id);
  const n2 = new FakeHostVolumes(volumes, volumes.addNode('n2').metadata.id);
  return {
    ...{ volumes, n1, n2 },
    setOpenFiles: (at, who) => {
      n1.setOpenFiles(at, who);
    },
    breakDevice: (volume) => {
      n1.setFailure(volume, 'it is refused');
    },
  };
}

async function realHosts(): Promise<HostsUnderTest> {
  const volumes = new MemoryVolumes();
  for (const name of ['n1', 'n2']) volumes.addNode(name);
  const first = new HostWorld(volumes, 'n1');
  const second = new HostWorld(volumes, 'n2');
  return {
    ...{ volumes, n1: await first.start(), n2: await second.start() },
    setOpenFiles: (at, who) => {
      first.setOpenFiles(at, who);
    },
    breakDevice: (volume) => {
      first.breakDevice(volume, 'it is refused');
    },
  };
}

for (const { name, run } of hostVolumesSuite) {
  t.test(`fake: ${name}`, () => run(fakeHosts()));
  t.test(`real: ${name}`, async () => run(await realHosts()));
}
