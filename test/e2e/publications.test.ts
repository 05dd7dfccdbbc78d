// A volume belongs to one host at a time, whatever its older hosts still have open (ADR 19).
import t from 'tap';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import { NbdClient } from '../../packages/nbd-client-js/src/index.ts';
import type { Volume } from '../../packages/protocol/src/index.ts';
import { startCluster } from '../support/cluster.ts';

const blockBytes = 4096;
const block = (text: string): Buffer => Buffer.alloc(blockBytes, text);

t.test('a host that has lost a volume never writes to it again', async (t) => {
  const cluster = await startCluster(t);
  await cluster.must('volume', 'create', 'db', '--size', '32MiB', '--replicas', '3');
  const publish = async (node: string): Promise<string> => {
    const text = await cluster.must('volume', 'publish', 'db', '--node', node, '-o', 'json');
    const { publications } = (JSON.parse(text) as Volume).status;
    return publications?.[0]?.exportName ?? '';
  };
  const connect = (node: number, name: string): Promise<NbdClient> =>
    NbdClient.connect({ uri: cluster.tcpUri(node, name) });
  const first = await publish('n1');

  await t.test('everybody else is refused', async (t) => {
    const device = await connect(0, first);
    await device.write(0, block('one'), { fua: true });
    for (const node of [0, 1]) await t.rejects(connect(node, 'db'), { code: 'REFUSED' });
    const again = await cluster.storctl('volume', 'publish', 'db', '--node', 'n3');
    t.not(again.code, 0);
    t.match(again.stderr, /used as a device on node n1/);
    const ended = await cluster.storctl('volume', 'unpublish', 'db');
    t.not(ended.code, 0, 'its device is connected');
    const removed = await cluster.storctl('volume', 'rm', 'db', '-y');
    t.not(removed.code, 0);
    t.match(removed.stderr, /used as a device on node n1/);
    await device.disconnect();
  });

  await t.test('another host takes over from one whose node is dead', async (t) => {
    // the host itself lives on, cut off from its own agent only
    const old = await connect(1, first);
    t.ok((await old.read(0, blockBytes)).equals(block('one')));
    t.equal(await cluster.primary('db'), 1);
    await cluster.agent(0).kill9();
    const second = await waitFor('n1 to be down', async () => {
      const { code } = await cluster.storctl('volume', 'publish', 'db', '--node', 'n3');
      return code === 0 ? publish('n3') : null;
    });
    t.not(second, first);
    const device = await connect(2, second);
    t.ok((await device.read(0, blockBytes)).equals(block('one')));
    await device.write(0, block('two'), { fua: true });
    await t.rejects(old.write(0, block('old')), 'its primary is fenced');
    await device.disconnect();

    // nobody is connected: the worst moment for a host that comes back
    for (const node of [1, 2]) {
      await t.rejects(connect(node, first), { code: 'REFUSED' }, `by n${node + 1}`);
      await t.rejects(connect(node, 'db'), { code: 'REFUSED' });
    }
    const reader = await connect(2, second);
    t.ok((await reader.read(0, blockBytes)).equals(block('two')));
    await reader.disconnect();
    cluster.agent(0).start();
    await cluster.agent(0).waitReady();
    await t.rejects(connect(0, first), { code: 'REFUSED' });
  });

  await t.test('unpublished, it is anybody’s', async (t) => {
    await cluster.must('volume', 'unpublish', 'db');
    const plain = await connect(1, 'db');
    t.ok((await plain.read(0, blockBytes)).equals(block('two')));
    await plain.disconnect();
  });
});
