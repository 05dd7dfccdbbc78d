// An agent is stopped (SIGTERM) and started again under real clients that reconnect: none of them hears of it.
import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { mustRun } from '../../benchmarks/src/harness/run-command.ts';
import { waitFor } from '../../benchmarks/src/harness/wait-for.ts';
import type { TestCluster } from '../../benchmarks/src/harness/test-cluster.ts';
import { ReconnectingNbdClient } from '../../packages/nbd-client-js/src/index.ts';
import { startCluster } from '../support/cluster.ts';
import { needs } from '../support/needs.ts';

const MiB = 1024 * 1024;

interface Said {
  child: ChildProcess;
  text: () => string;
  ended: Promise<number>;
}

function run(command: string, args: string[]): Said {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => (text += chunk.toString()));
  }
  const ended = once(child, 'close').then(([code]) => (code as number | null) ?? -1);
  return { child, text: () => text, ended };
}

/** How far qemu-img -p has come (percent). */
function progress({ text }: Said): number {
  return Number(/\((\d+\.\d+)\/100%\)[^(]*$/.exec(text())?.[1] ?? 0);
}

async function restart(cluster: TestCluster): Promise<void> {
  const agent = cluster.agent(0);
  t.same(await agent.stop(), { code: 0, signal: null });
  agent.start();
  await agent.waitReady();
}

t.test('an orderly stop', async (t) => {
  const cluster = await startCluster(t, { nodes: 1 });
  const { host, nbdPort, dir: home } = cluster.agent(0).place;
  const dir = t.testdir();
  const image = join(dir, 'disk.img');
  const bytes = randomBytes(24 * MiB);
  writeFileSync(image, bytes);
  // slow enough that the stop comes while there are requests
  for (const name of ['db', 'ours']) {
    await cluster.must('volume', 'create', name, '--size', '24MiB', '--replicas', '1');
    await cluster.must('volume', 'update', name, '--qos', 'bps=8MiB');
  }

  await t.test('qemu-img with reconnect-delay copies through it', async (t) => {
    if (!needs(t, 'qemu-img', 'qemu-utils')) return;
    for (const server of [
      `server.type=inet,server.host=${host},server.port=${nbdPort}`,
      `server.type=unix,server.path=${join(home, 'run/nbd-0.sock')}`,
    ]) {
      const target = `driver=nbd,${server},export=db,reconnect-delay=60`;
      const options = ['convert', '-p', '-n', '-W', '-f', 'raw', '--target-image-opts'];
      const copy = run('qemu-img', [...options, image, target]);
      t.teardown(() => copy.child.kill('SIGKILL'));
      await waitFor('the copy to be under way', () => progress(copy) > 5);
      await restart(cluster);
      t.equal(await copy.ended, 0, copy.text());
      t.notMatch(copy.text(), /error|failed/i);
      const out = join(dir, 'out.img');
      await mustRun('qemu-img', [
        'convert',
        '-f',
        'raw',
        '-O',
        'raw',
        cluster.tcpUri(0, 'db'),
        out,
      ]);
      t.ok(readFileSync(out).equals(bytes), 'all of it is there');
      bytes.reverse();
      writeFileSync(image, bytes);
    }
  });

  await t.test('so does our own client', async (t) => {
    const client = await ReconnectingNbdClient.connect({ addresses: [cluster.tcpUri(0, 'ours')] });
    t.teardown(() => client.close());
    const writes: Promise<void>[] = [];
    let done = 0;
    for (let at = 0; at < bytes.length; at += MiB / 2) {
      const part = client.write(at, bytes.subarray(at, at + MiB / 2));
      writes.push(part.then(() => void (done += 1)));
    }
    await waitFor('the first answers', () => done > 2);
    t.ok(done < writes.length);
    await restart(cluster);
    await Promise.all(writes);
    t.ok((await client.read(0, bytes.length)).equals(bytes));
  });
});
