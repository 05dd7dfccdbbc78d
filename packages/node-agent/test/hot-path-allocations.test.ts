// What 4 KiB requests make the product allocate in a steady state, by function: no promise, closure, view
// or other object for each of them. Volume with one replica, whole agents on models of disk and network.
import { Session } from 'node:inspector';
import { setFlagsFromString } from 'node:v8';
import { loadServices } from '@stor/protocol';
import t from 'tap';
import { ThreadCluster } from './thread-cluster.ts';

// an allocation counts for the function that is on the stack, and so not for one that it is inlined in
setFlagsFromString('--no-turbo-inlining');

const blockBytes = 4096;
const blocks = 512;
const depth = 32;
const warmUpRequests = 9_600;
const requests = 6_400;
/** Every so many bytes one allocation is looked at, on average. */
const samplingBytes = 128;
/** The smallest closure, promise or view takes more; a number that is boxed takes 12 or 16 (bytes). */
const allowedBytes = 20;
/** Where the kernel reads to behind an unfinished message: for each read of the socket, not each request. */
const perSocketRead = /^room \(runtime\/src\/receive-buffer/;

interface HeapNode {
  callFrame: { functionName: string; url: string; lineNumber: number };
  selfSize: number;
  children: HeapNode[];
}

/** Bytes by function of the product, with those of Node's own functions that it calls. */
function byFunction(head: HeapNode): Map<string, number> {
  const sums = new Map<string, number>();
  const walk = (node: HeapNode, owner: string | null): void => {
    const { url, functionName, lineNumber } = node.callFrame;
    let own = owner;
    const [, file] =
      /\/packages\/((?:node-agent|replicator|runtime|protocol)\/.*)$/.exec(url) ?? [];
    if (file !== undefined) {
      const isProduct = /\/src\//.test(file) && !/\/testing\//.test(file);
      own = isProduct ? `${functionName} (${file}:${lineNumber + 1})` : null;
    } else if (url !== '' && !url.startsWith('node:')) own = null;
    if (own !== null) sums.set(own, (sums.get(own) ?? 0) + node.selfSize);
    for (const child of node.children) walk(child, own);
  };
  walk(head, null);
  return sums;
}

class HeapSampler {
  readonly #session = new Session();

  start(): void {
    this.#session.connect();
    this.#session.post('HeapProfiler.startSampling', {
      samplingInterval: samplingBytes,
      // else only what is still alive would be told
      includeObjectsCollectedByMajorGC: true,
      includeObjectsCollectedByMinorGC: true,
    } as object);
  }

  stop(): Map<string, number> {
    let head: HeapNode | null = null;
    this.#session.post('HeapProfiler.stopSampling', (error, { profile }) => {
      if (error) throw error;
      head = profile.head;
    });
    this.#session.disconnect();
    if (!head) throw new Error('the inspector did not answer at once');
    return byFunction(head);
  }
}

async function load(
  cluster: ThreadCluster,
  count: number,
  request: (block: number) => Promise<unknown>,
): Promise<void> {
  for (let i = 0; i < count; i += depth) {
    const all = Array.from({ length: depth }, (_, k) => request(((i + k) * 7) % blocks));
    await cluster.during(Promise.all(all));
  }
}

t.test('a 4 KiB read or write of one replica allocates no object', async (t) => {
  const cluster = new ThreadCluster(3, await loadServices());
  await Promise.all(cluster.nodes.map((node) => cluster.start(node)));
  t.teardown(() => cluster.close());
  const api = cluster.api();
  await cluster.until(async () => (await cluster.during(api.listDisks({}))).disks.length === 3);
  await cluster.during(
    api.createVolume({ name: 'db', sizeBytes: blocks * blockBytes, replicas: 1, labels: {} }),
  );
  const { status } = await cluster.during(api.getVolume({ name: 'db' }));
  const home = status.replicas[0]?.node;
  const node = cluster.nodes.find(({ config }) => config.nodeName === home);
  if (!node) throw new Error(`no node ${home}`);
  const client = await cluster.connect(node, 'db');
  const bytes = Buffer.alloc(blockBytes, 7);
  const kinds = {
    write: (block: number) => client.write(block * blockBytes, bytes),
    read: (block: number) => client.read(block * blockBytes, blockBytes),
  };
  for (const [kind, request] of Object.entries(kinds)) {
    await load(cluster, warmUpRequests, request);
    const sampler = new HeapSampler();
    sampler.start();
    await load(cluster, requests, request);
    const sums = sampler.stop();
    t.ok(sums.size > 0, 'something is allocated beside requests, and seen');
    const over = [...sums].filter(
      ([name, sum]) => sum / requests > allowedBytes && !perSocketRead.test(name),
    );
    t.same(over, [], `bytes that ${requests} ${kind}s made the product allocate`);
  }
  await cluster.during(client.close());
});
