import { loadServices, type RpcOutcome } from '@stor/protocol';
import { FakeClock, MemoryNetwork } from '@stor/runtime/testing';
import { systemClock, systemNetwork } from '@stor/runtime';
import t from 'tap';
import { grpcTransport } from '../src/rpc/grpc-transport.ts';
import type { RpcMethod } from '../src/rpc/rpc-transport.ts';
import { slowReader } from '../src/testing/rpc-stream-suite.ts';
import { rpcTransportSuite, SocketRpcTransport } from '../src/testing/index.ts';

const turn = () => new Promise((resolve) => setImmediate(resolve));

async function inRealTime(condition: () => boolean): Promise<void> {
  while (!condition()) await turn();
}

function world() {
  const clock = new FakeClock();
  const network = new MemoryNetwork({ clock });
  const until = async (condition: () => boolean): Promise<void> => {
    for (let i = 0; i < 20_000 && !condition(); i++) {
      clock.advance(1);
      await turn();
    }
    if (!condition()) throw new Error('the condition did not come true');
  };
  return { clock, network, until };
}

t.test('gRPC', async (t) => {
  for (const { name, run } of [...rpcTransportSuite, slowReader]) {
    await t.test(name, () => run({ transport: grpcTransport(), until: inRealTime }));
  }
});

t.test('the model of gRPC', async (t) => {
  const services = await loadServices();
  for (const { name, run } of rpcTransportSuite) {
    await t.test(name, () => {
      const { clock, network, until } = world();
      const transport = new SocketRpcTransport({ network: network.host('n1'), clock, services });
      return run({ transport, until });
    });
  }
});

t.test('the model of gRPC over the sockets of the host', async (t) => {
  const services = await loadServices();
  for (const { name, run } of rpcTransportSuite) {
    await t.test(name, () => {
      const transport = new SocketRpcTransport({
        network: systemNetwork,
        clock: systemClock,
        services,
      });
      return run({ transport, until: inRealTime });
    });
  }
});

t.test('cut off without a word', async (t) => {
  const { clock, network, until } = world();
  const services = await loadServices();
  const near = new SocketRpcTransport({ network: network.host('near'), clock, services });
  const far = new SocketRpcTransport({ network: network.host('far'), clock, services });
  const server = await far.createServer();
  let calls = 0;
  const silent: RpcMethod = () => {
    calls += 1;
    return new Promise(() => {});
  };
  server.addService('raft', {
    execute: silent,
    readIndex: silent,
    renewLease: silent,
    members: silent,
  });
  server.addStream((stream) => {
    stream.accept({ batch: () => {}, closed: () => {} });
  });
  const address = `10.0.0.1:${await server.listen('10.0.0.1', 0)}`;
  const channel = near.channel(address, 'raft');
  const call = { method: 'Execute', request: new Uint8Array(), timeoutMs: 60_000 };
  const outcomes: RpcOutcome[] = [];
  const ask = (connectTimeoutMs: number): void => {
    void channel.call({ ...call, connectTimeoutMs }).then((outcome) => outcomes.push(outcome));
  };
  ask(500);
  const heard: string[] = [];
  near.openStream(
    address,
    {},
    {
      accepted: () => heard.push('accepted'),
      drained: () => {},
      broken: (reason) => heard.push(reason),
    },
  );
  await until(() => calls === 1 && heard.length === 1);
  network.block('far', 'near');
  const sinceMs = clock.monotonicMs();
  await until(() => outcomes.length === 1 && heard.length === 2);
  t.match(outcomes[0], { type: 'lost', cause: { message: /keepalive/ } });
  t.match(heard[1], /keepalive/);
  t.ok(clock.monotonicMs() - sinceMs <= 4_100, 'a keepalive finds it out');
  const againMs = clock.monotonicMs();
  ask(500);
  await until(() => outcomes.length === 2);
  t.same(outcomes[1], { type: 'not-sent' });
  t.ok(clock.monotonicMs() - againMs >= 500);
  network.heal();
  ask(500);
  await until(() => calls === 2);
  server.forceShutdown();
  await until(() => outcomes.length === 3);
  t.equal(outcomes[2]?.type, 'lost');
});
