import net from 'node:net';
import { Metadata, Server, ServerCredentials } from '@grpc/grpc-js';
import type { sendUnaryData, ServerUnaryCall } from '@grpc/grpc-js';
import fc from 'fast-check';
import t from 'tap';
import {
  decodeRpcError,
  encodeRpcError,
  errorCodes,
  errorMetadataKey,
  hasCode,
  loadServices,
  openApiClient,
  StorError,
} from '../src/index.ts';
import type { ApiClient, CallOptions } from '../src/index.ts';

type Answer = (method: string, request: Record<string, unknown>) => object | Promise<object>;

/** A node that answers with `answer` and remembers what it was asked. */
async function startNode(answer: Answer) {
  const { stor } = await loadServices();
  const calls: { method: string; request: Record<string, unknown> }[] = [];
  const server = new Server();
  const handlers = Object.fromEntries(
    Object.keys(stor).map((method) => [
      method,
      (call: ServerUnaryCall<Record<string, unknown>, object>, done: sendUnaryData<object>) => {
        calls.push({ method, request: call.request });
        Promise.resolve()
          .then(() => answer(method, call.request))
          .then(
            (response) => done(null, response),
            (thrown: unknown) => {
              const { status, text, metadata } = encodeRpcError(StorError.from(thrown));
              const trailer = new Metadata();
              trailer.set(errorMetadataKey, Buffer.from(metadata));
              done({ code: status, details: text, metadata: trailer });
            },
          );
      },
    ]),
  );
  server.addService(stor, handlers);
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) => {
      if (error) reject(error);
      else resolve(bound);
    });
  });
  return { server, calls, address: `127.0.0.1:${port}` };
}

/** A TCP server of bytes; `onConnection` decides what it does. */
async function startTcp(onConnection: (socket: net.Socket) => void) {
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    onConnection(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as net.AddressInfo;
  const close = (): void => {
    server.close();
    for (const socket of sockets) socket.destroy();
  };
  return { address: `127.0.0.1:${port}`, close };
}

/** An address where nobody listens. */
async function deadAddress(): Promise<string> {
  const { address, close } = await startTcp(() => {});
  close();
  return address;
}

async function errorOf(promise: Promise<unknown>): Promise<StorError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof StorError) return error;
    throw error;
  }
  throw new Error('no error');
}

const volume = { name: 'db', sizeBytes: 4096, replicas: 1, labels: {} };

t.test('a client outlives dead nodes', async (t) => {
  const node = await startNode(() => ({ nodes: [] }));
  t.teardown(() => node.server.forceShutdown());

  await t.test('a port where nobody listens', async (t) => {
    const client = openApiClient({ endpoints: [await deadAddress(), node.address] });
    t.teardown(() => client.close());
    t.same(await client.listNodes({}), { nodes: [] });
    await client.createVolume(volume);
    t.pass('changes too: they were certainly not done');
  });

  await t.test('a host that accepts and says nothing', async (t) => {
    const silent = await startTcp(() => {});
    t.teardown(() => silent.close());
    const client = openApiClient({ endpoints: [silent.address, node.address] });
    t.teardown(() => client.close());
    t.same(await client.listNodes({}), { nodes: [] });
  });

  await t.test('nobody at all, then somebody', async (t) => {
    const [first, second] = [await deadAddress(), await deadAddress()];
    const client = openApiClient({ endpoints: [first, second] });
    t.teardown(() => client.close());
    const error = await errorOf(client.listNodes({}));
    t.match(error, { code: 'UNAVAILABLE' });
    t.equal(
      error.message,
      `no node answers (tried ${first}, ${second}): check that the agents run and that the addresses are right`,
    );
    const server = new Server();
    const { stor } = await loadServices();
    server.addService(
      stor,
      Object.fromEntries(
        Object.keys(stor).map((method) => [
          method,
          (_call: unknown, done: sendUnaryData<object>) => done(null, { nodes: [] }),
        ]),
      ),
    );
    await new Promise<void>((resolve, reject) => {
      server.bindAsync(second, ServerCredentials.createInsecure(), (failed) => {
        if (failed) reject(failed);
        else resolve();
      });
    });
    t.teardown(() => server.forceShutdown());
    t.same(await client.listNodes({}), { nodes: [] }, 'the next call finds it, without a wait');
  });
});

t.test('what may be tried again', async (t) => {
  const good = await startNode(() => ({}));
  t.teardown(() => good.server.forceShutdown());
  // takes the request and dies: the client cannot know whether it was done
  const dying = await startNode(() => {
    dying.server.forceShutdown();
    return new Promise<object>(() => {});
  });
  const methods: [string, (client: ApiClient) => Promise<unknown>, string][] = [
    ['a read', (client) => client.listVolumes({}), 'answered'],
    ['a creation', (client) => client.createVolume(volume), 'answered'],
  ];
  for (const [what, run, wanted] of methods) {
    const lost = await startNode(() => {
      lost.server.forceShutdown();
      return new Promise<object>(() => {});
    });
    const client = openApiClient({ endpoints: [lost.address, good.address] });
    const before = good.calls.length;
    await run(client);
    t.equal(good.calls.length, before + 1, `${what} is ${wanted} by the other node`);
    t.same(lost.calls[0]?.request, good.calls.at(-1)?.request, 'with the same request');
    await client.close();
  }
  t.match(good.calls.at(-1)?.request, { requestId: /^[0-9a-f-]{36}$/ });

  const client = openApiClient({ endpoints: [dying.address, good.address] });
  t.teardown(() => client.close());
  const before = good.calls.length;
  const error = await errorOf(client.deleteVolume({ name: 'db' }));
  t.match(error, { code: 'OUTCOME_UNKNOWN', message: /may or may not have been made/ });
  t.equal(good.calls.length, before, 'a deletion is not sent again');
});

t.test('errors arrive as they were thrown', async (t) => {
  const thrown = new StorError('ATTACHED_ELSEWHERE', 'volume däb is attached on n2', {
    details: { holder: 'n2' },
  });
  let answer: Answer = () => Promise.reject(thrown);
  const node = await startNode((method, request) => answer(method, request));
  const other = await startNode(() => ({ volumes: [] }));
  t.teardown(() => {
    node.server.forceShutdown();
    other.server.forceShutdown();
  });
  const open = (endpoints: string[]): ApiClient => {
    const client = openApiClient({ endpoints });
    t.teardown(() => client.close());
    return client;
  };
  const client = open([node.address, other.address]);
  t.match(await errorOf(client.attachVolume({ name: 'db', node: '' })), {
    code: thrown.code,
    message: thrown.message,
    details: thrown.details,
  });
  t.equal(other.calls.length, 0, 'an answer is an answer');

  answer = () => Promise.reject(new StorError('UNAVAILABLE', 'no quorum'));
  t.match(await errorOf(open([node.address, other.address]).detachVolume({ name: 'x' })), {
    code: 'UNAVAILABLE',
    message: 'no quorum',
  });
  t.equal(other.calls.length, 0);
  t.same(await open([node.address, other.address]).listVolumes({}), { volumes: [] });
  t.equal(other.calls.length, 1, 'a read is asked of a node that may have the quorum');
  t.match(await errorOf(open([node.address]).listVolumes({})), { message: 'no quorum' });

  answer = () => new Promise<object>(() => {});
  const late: CallOptions = { timeoutMs: 50 };
  const timeout = await errorOf(open([node.address]).deleteVolume({ name: 'db' }, late));
  t.match(timeout, { code: 'TIMEOUT', message: /did not answer within 0.1 s: the change may or/ });
  const abort = new AbortController();
  const given = errorOf(open([node.address]).listNodes({}, { signal: abort.signal }));
  abort.abort();
  t.match(await given, { code: 'ABORTED' });
  t.match(await errorOf(open([node.address]).listNodes({}, { signal: abort.signal })), {
    code: 'ABORTED',
  });
  const closed = open([node.address]);
  await closed.close();
  await closed.close();
  t.match(await errorOf(closed.listNodes({})), { code: 'ABORTED' });
  t.throws(() => openApiClient({ endpoints: [] }), { code: 'INVALID_ARGUMENT' });
});

t.test('the error codec', async (t) => {
  for (const code of errorCodes) {
    const error = new StorError(code, 'why', { details: { a: 'b' } });
    const decoded = decodeRpcError(encodeRpcError(error).metadata);
    t.match(decoded, { code, message: 'why', details: { a: 'b' } });
  }
  const newer = new TextEncoder().encode(JSON.stringify({ code: 'NEW_CODE', message: 'm' }));
  t.match(decodeRpcError(newer), { code: 'INTERNAL', message: 'NEW_CODE: m' });
  const long = new StorError('INTERNAL', 'x'.repeat(100_000), {
    details: { a: 'y'.repeat(9_000) },
  });
  t.ok(encodeRpcError(long).metadata.length < 8_192, 'fits into a header');
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => decodeRpcError(bytes) === null),
  );
});

t.test('resources survive the wire', async (t) => {
  const { stor, agent } = await loadServices();
  const round = (method: string, value: object): unknown => {
    const { responseSerialize, responseDeserialize } = stor[method] ?? {};
    if (!responseSerialize || !responseDeserialize) throw new Error(method);
    return responseDeserialize(responseSerialize(value));
  };
  const number = fc.maxSafeNat();
  const text = fc.string({ unit: 'binary-ascii' });
  const labels = fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), text, { noNullPrototype: true });
  const metadata = fc.record({
    id: text,
    name: text,
    labels,
    createdAtMs: number,
    resourceVersion: number,
  });
  const policy = fc.record({
    failureMode: text,
    onLoss: text,
    ioTimeoutMs: number,
    replacementWaitMs: number,
    unflushedLoss: text,
    rebuildPaused: fc.boolean(),
    shared: fc.boolean(),
  });
  const volumes = fc.record({
    metadata,
    spec: fc.record({
      sizeBytes: number,
      segmentBytes: number,
      replicas: fc.nat(5),
      policy,
      diskTag: text,
      placement: fc.record({
        required: fc.array(text, { maxLength: 2 }),
        preferred: fc.array(text, { maxLength: 2 }),
        nodeSelector: labels,
        affinity: fc.array(fc.record({ labels, required: fc.boolean(), domain: text }), {
          maxLength: 2,
        }),
        antiAffinity: fc.array(fc.record({ labels, required: fc.boolean(), domain: text }), {
          maxLength: 2,
        }),
      }),
    }),
    status: fc.record({
      health: text,
      message: text,
      primary: fc.option(fc.record({ nodeId: text, node: text, mode: text, sinceMs: number })),
      epoch: number,
      setRevision: number,
      replicas: fc.array(
        fc.record({
          id: text,
          segment: fc.nat(9),
          nodeId: text,
          node: text,
          diskId: text,
          state: text,
          bytesRemaining: number,
          purpose: text,
          leaving: fc.boolean(),
        }),
        { maxLength: 3 },
      ),
      allocatedBytes: number,
      publications: fc.array(
        fc.record({
          id: text,
          nodeId: text,
          node: text,
          readOnly: fc.boolean(),
          owner: text,
          sinceMs: number,
          exportName: text,
        }),
        { maxLength: 2 },
      ),
      nbdUri: text,
      snapshots: fc.nat(4096),
      origin: fc.option(
        fc.record({ volumeId: text, volume: text, snapshotId: text, snapshot: text }),
      ),
      space: fc.option(
        fc.record({ allocatedBytes: number, snapshotBytes: number, reclaimableBytes: number }),
      ),
      serving: text,
    }),
  });
  const snapshots = fc.record({
    metadata,
    spec: fc.record({ volumeId: text, sizeBytes: number, groupId: text }),
    status: fc.record({
      volume: text,
      state: text,
      message: text,
      pausedMs: fc.constantFrom(0, 3.5, 99.25),
      ownBytes: number,
    }),
  });
  const trashed = fc.record({
    metadata,
    spec: fc.record({ sizeBytes: number, replicas: fc.nat(5) }),
    status: fc.record({
      deletedAtMs: number,
      keptUntilMs: number,
      snapshots: fc.nat(9),
      nodes: fc.array(text, { maxLength: 2 }),
      allocatedBytes: number,
    }),
  });
  const addresses = fc.record({
    api: text,
    http: text,
    peers: fc.array(text, { maxLength: 2 }),
    nbd: fc.array(text, { maxLength: 2 }),
    nbdUnix: fc.array(text, { maxLength: 2 }),
    nbdTls: text,
  });
  const nodes = fc.record({
    metadata,
    // on the wire what nobody wants of a node is null
    spec: fc.constant({
      cordoned: null,
      drain: null,
      evacuate: null,
      maintenance: null,
      decommission: null,
    }),
    status: fc.record({
      state: text,
      addresses,
      agentInstance: text,
      bootId: text,
      version: text,
      raftRole: text,
      computeOnly: fc.boolean(),
    }),
  });
  const disks = fc.record({
    metadata,
    spec: fc.record({
      nodeId: text,
      path: text,
      tag: text,
      device: text,
      evacuate: fc.boolean(),
    }),
    status: fc.record({
      state: text,
      message: text,
      capacityBytes: number,
      usedBytes: number,
      freeBytes: number,
      reservedBytes: number,
      provisionedBytes: number,
      replicas: fc.nat(9),
      lane: fc.nat(7),
      space: text,
    }),
  });
  const inspections = fc.record({
    disk: disks,
    replicas: fc.array(
      fc.record({
        id: text,
        volume: text,
        volumeId: text,
        segment: fc.nat(9),
        sizeBytes: number,
        allocatedBytes: number,
        state: text,
        leaving: fc.boolean(),
        otherCopies: fc.nat(4),
      }),
      { maxLength: 2 },
    ),
    next: fc.array(text, { maxLength: 2 }),
    advice: fc.array(text, { maxLength: 2 }),
  });
  const place = { volume: text, replicaId: text, segment: fc.nat(9) };
  const evacuations = fc.record({
    disk: disks,
    moves: fc.array(fc.record({ ...place, toNode: text, toDisk: text, bytes: number }), {
      maxLength: 2,
    }),
    blocked: fc.array(fc.record({ ...place, reason: text }), { maxLength: 2 }),
    bytes: number,
  });
  const pools = fc.record({
    tag: text,
    disks: fc.record({ total: fc.nat(9), online: fc.nat(9) }),
    nodes: fc.nat(9),
    capacityBytes: number,
    usedBytes: number,
    freeBytes: number,
    reservedBytes: number,
    repairReserveBytes: number,
    provisionedBytes: number,
    provisionLimitBytes: number,
    space: text,
    outlook: fc.array(text, { maxLength: 2 }),
  });
  const settings = fc.record({
    overprovisionPercent: fc.nat(1_000),
    repairReservePercent: fc.nat(50),
  });
  const clusters = fc.record({
    clusterId: text,
    name: text,
    version: text,
    leader: fc.option(fc.record({ nodeId: text, node: text })),
    term: number,
    quorum: fc.boolean(),
    nodes: fc.record({ total: fc.nat(9), up: fc.nat(9) }),
    disks: fc.record({
      total: fc.nat(9),
      online: fc.nat(9),
      capacityBytes: number,
      usedBytes: number,
    }),
    volumes: fc.record({
      total: fc.nat(9),
      healthy: fc.nat(9),
      degraded: fc.nat(9),
      suspended: fc.nat(9),
      unavailable: fc.nat(9),
    }),
  });
  const devices = fc.record({
    ...{ nodeId: text, node: text, volumeId: text, volume: text, publication: text },
    ...{ means: text, path: text, sizeBytes: number, readOnly: fc.boolean() },
    users: fc.array(text, { maxLength: 2 }),
    mounts: fc.array(
      fc.record({
        ...{ target: text, fileSystem: text, readOnly: fc.boolean(), user: text },
        options: fc.array(text, { maxLength: 2 }),
      }),
      { maxLength: 2 },
    ),
    failure: text,
  });
  const findings = fc.array(fc.record({ name: text, state: text, text }), { maxLength: 2 });
  const all: [string, fc.Arbitrary<object>][] = [
    ['AttachDevice', devices],
    ['MountVolume', devices],
    ['ListDevices', fc.record({ devices: fc.array(devices, { maxLength: 2 }) })],
    ['CheckHost', fc.record({ node: text, checks: findings })],
    ['GetVolume', volumes],
    ['GetNode', nodes],
    ['AddDisk', disks],
    ['InspectDisk', inspections],
    ['EvacuateDisk', evacuations],
    ['ListPools', fc.record({ pools: fc.array(pools, { maxLength: 2 }), settings })],
    ['SetPool', settings],
    ['GetClusterStatus', clusters],
    ['ListSnapshots', fc.record({ snapshots: fc.array(snapshots, { maxLength: 2 }) })],
    ['ListTrash', fc.record({ volumes: fc.array(trashed, { maxLength: 2 }) })],
    ['ListVolumes', fc.record({ volumes: fc.array(volumes, { maxLength: 2 }) })],
  ];
  for (const [method, values] of all) {
    fc.assert(
      fc.property(values, (value) => {
        t.same(JSON.parse(JSON.stringify(round(method, value))), JSON.parse(JSON.stringify(value)));
      }),
      { numRuns: 40 },
    );
  }
  t.same(Object.keys(agent).sort(), [
    'AddDisk',
    'AttachHere',
    'HandOver',
    'LiveVolumes',
    'OrderHost',
    'OrderPrimary',
    'ReleaseAttachment',
    'RemoveDisk',
    'ReplicaSpace',
  ]);
  t.ok(hasCode(new StorError('TIMEOUT', ''), 'TIMEOUT'));
});

t.test('what is not known is null for the caller, and not given stays not given', async (t) => {
  const known = {
    name: 'db',
    volumeId: 'v-1',
    health: 'degraded',
    state: 'two of three',
    causes: [{ text: 'why', sinceMs: 5 }],
    holder: '',
    sinceMs: 5,
    next: ['n'],
    advice: ['a'],
  };
  const unknown = { ...known, causes: [{ text: 'why', sinceMs: null }], sinceMs: null };
  const rebuild = {
    volume: 'db',
    volumeId: 'v-1',
    replicaId: 'r-1',
    nodeId: 'n-1',
    node: 'n1',
    reason: 'returned',
    state: 'running',
    message: '',
    source: 'n2',
    bytesTotal: 4,
    bytesRemaining: 3,
    bytesCopied: 2,
    bytesPerSecond: 1,
    etaMs: 0,
    startedAtMs: 9,
  };
  const waiting = { ...rebuild, state: 'waiting', etaMs: null, startedAtMs: null };
  let explanation: object = known;
  const node = await startNode((method) => {
    if (method === 'ExplainVolume') return explanation;
    return method === 'ListRebuilds' ? { rebuilds: [rebuild, waiting] } : {};
  });
  t.teardown(() => node.server.forceShutdown());
  const client = openApiClient({ endpoints: [node.address] });
  t.teardown(() => client.close());
  t.same(await client.explainVolume({ name: 'db' }), known);
  explanation = unknown;
  t.same(await client.explainVolume({ name: 'db' }), unknown);
  t.same(await client.listRebuilds({ name: '' }), { rebuilds: [rebuild, waiting] });

  const sent = async (call: Promise<unknown>) => {
    await call;
    return node.calls.at(-1)?.request;
  };
  t.strictSame(await sent(client.updateVolume({ name: 'db' })), {
    name: 'db',
    policy: null,
    placement: null,
    clearQos: [],
    resourceVersion: 0,
    requestId: '',
  });
  t.strictSame(
    await sent(client.updateVolume({ name: 'db', policy: { shared: false, ioTimeoutMs: 0 } })),
    {
      name: 'db',
      policy: { shared: false, ioTimeoutMs: 0 },
      placement: null,
      clearQos: [],
      resourceVersion: 0,
      requestId: '',
    },
    'false and 0 are changes',
  );
  t.match(await sent(client.updateVolume({ name: 'db', replicas: 2 })), { replicas: 2 });
  const qos = { iops: 0, burst: { factor: 1.5, seconds: 30 }, weight: 7 };
  const wishes = await sent(client.updateVolume({ name: 'db', qos, clearQos: ['bps'] }));
  t.match(wishes, { clearQos: ['bps'] });
  t.strictSame((wishes as { qos: object }).qos, qos, 'what is not given is absent, and 0 is 0');
  t.match(await sent(client.createVolume(volume)), { policy: null });
});
