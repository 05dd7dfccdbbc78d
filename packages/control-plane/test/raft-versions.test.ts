// Members whose versions of the store's calls differ: what they speak, or why they do not.
import { loadServices } from '@stor/protocol';
import type { RpcOutcome, VersionRange } from '@stor/protocol';
import { silentLogger } from '@stor/runtime';
import { FakeClock, MemoryNetwork, SeededRandom } from '@stor/runtime/testing';
import t from 'tap';
import { PeerLink } from '../src/embedded/peer-link.ts';
import { callMetadata } from '../src/embedded/raft-rpc.ts';
import { RaftService } from '../src/embedded/raft-service.ts';
import { SocketRpcTransport } from '../src/testing/socket-rpc.ts';

const member = (id: string, versions?: VersionRange) => {
  const named = { clusterId: 'c-1', storeId: '', id, address: '' };
  return versions ? { ...named, versions } : named;
};

/** A call and a stream from member `n1` to `n2`; `metadata` in place of what `n1` would say. */
async function talk(
  here: VersionRange | undefined,
  there: VersionRange | undefined,
  metadata = callMetadata(member('n1', here), 'n2'),
) {
  const clock = new FakeClock();
  const network = new MemoryNetwork({ clock });
  const services = await loadServices();
  const transport = (host: string) =>
    new SocketRpcTransport({ network: network.host(host), clock, services });
  const server = await transport('n2').createServer();
  const service = new RaftService(member('n2', there));
  service.addTo(server);
  const received: Uint8Array[] = [];
  const echo = (request: Uint8Array): Promise<Uint8Array> => Promise.resolve(request);
  service.start(
    {
      receive: (_from, batch) => received.push(batch),
      execute: echo,
      readIndex: echo,
      renewLease: echo,
      members: echo,
    },
    {
      heard: () => {},
      learn: () => {},
      isMember: () => true,
      hasLeft: () => false,
      whyGone: () => '',
    },
  );
  const address = `10.0.0.2:${await server.listen('10.0.0.2', 0)}`;
  const noted: { level: string; fields: Record<string, unknown> }[] = [];
  const note = (level: string) => (fields: object) => {
    noted.push({ level, fields: fields as Record<string, unknown> });
  };
  const logger = { ...silentLogger, info: note('info'), warn: note('warn') };
  const random = new SeededRandom(1);
  const link = new PeerLink({
    address,
    metadata,
    clock,
    random,
    logger,
    transport: transport('n1'),
  });
  link.send(Uint8Array.of(7));
  const channel = transport('n1').channel(address, 'raft');
  let outcome: RpcOutcome | null = null;
  const limits = { timeoutMs: 60_000, connectTimeoutMs: 60_000 };
  void channel
    .call({ method: 'Execute', request: Uint8Array.of(1), ...limits, metadata })
    .then((answer) => {
      outcome = answer;
    });
  while (!outcome || noted.length === 0) {
    clock.advance(1);
    await new Promise((resolve) => setImmediate(resolve));
  }
  link.close();
  server.forceShutdown();
  const [first] = noted;
  return { outcome: outcome as RpcOutcome, level: first?.level, fields: first?.fields, received };
}

t.test('a stream is spoken in the highest version that both members have', async (t) => {
  for (const [here, there, version] of [
    [undefined, undefined, 1],
    [{ min: 1, max: 2 }, undefined, 1],
    [undefined, { min: 1, max: 2 }, 1],
    [{ min: 1, max: 3 }, { min: 2, max: 4 }, 3],
  ] as const) {
    const { outcome, fields } = await talk(here, there);
    t.match(fields, { version });
    t.equal(outcome.type, 'answered');
  }
});

t.test('without one in common a call and a stream say who is to be upgraded', async (t) => {
  const newer = await talk(undefined, { min: 2, max: 3 });
  t.equal(newer.level, 'warn');
  t.match(newer.fields, { reason: /member n1 speaks version 1 .*upgrade member n1/ });
  t.match(newer.outcome, { type: 'refused', error: { code: 'PROTOCOL' } });
  t.same(newer.received, []);
  const older = await talk({ min: 2, max: 3 }, undefined);
  t.match(older.outcome, {
    error: { code: 'PROTOCOL', message: /upgrade member n2 to a Stor that speaks version 2/ },
  });
});

t.test('a member that names no versions speaks the first one', async (t) => {
  const { 'stor-raft-versions': _none, ...rest } = callMetadata(member('n1'), 'n2');
  t.equal((await talk(undefined, undefined, rest)).outcome.type, 'answered');
  const refused = await talk(undefined, { min: 2, max: 2 }, rest);
  t.match(refused.outcome, { type: 'refused', error: { message: /upgrade member n1/ } });
  const nonsense = await talk(undefined, undefined, { ...rest, 'stor-raft-versions': '2' });
  t.match(nonsense.outcome, { type: 'refused', error: { code: 'PROTOCOL' } });
});
