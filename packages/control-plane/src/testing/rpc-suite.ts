import assert from 'node:assert/strict';
import { StorError, type RpcCall, type RpcOutcome } from '@stor/protocol';
import type {
  IncomingStream,
  RpcChannel,
  RpcContext,
  RpcMethod,
  RpcServer,
  RpcTransport,
} from '../rpc/rpc-transport.ts';
import { answerStreams } from './rpc-stream-suite.ts';

/** What a test of `rpcTransportSuite` runs on. Addresses are on `127.0.0.1`. */
export interface RpcUnderTest {
  transport: RpcTransport;
  /** Lets time pass until the condition holds. */
  until(condition: () => boolean): Promise<void>;
}

export interface RpcTest {
  name: string;
  run(world: RpcUnderTest): Promise<void>;
}

type Bytes = Uint8Array;
const host = '127.0.0.1';
/** so long that no test ends by it (ms) */
const longMs = 60_000;

interface Rig {
  server: RpcServer;
  address: string;
  channel: RpcChannel;
  contexts: RpcContext[];
}

const silent: RpcMethod = () => new Promise(() => {});

/** A server with the Raft service, whose methods are the given ones, and a channel to it. */
async function rig(world: RpcUnderTest, methods: Record<string, RpcMethod> = {}): Promise<Rig> {
  const contexts: RpcContext[] = [];
  const server = await world.transport.createServer();
  const noted = (method: RpcMethod): RpcMethod => {
    return (request, context) => {
      contexts.push(context);
      return method(request, context);
    };
  };
  server.addService('raft', {
    execute: noted(methods['execute'] ?? silent),
    readIndex: noted(methods['readIndex'] ?? silent),
    renewLease: noted(methods['renewLease'] ?? silent),
    members: noted(methods['members'] ?? silent),
  });
  const address = `${host}:${await server.listen(host, 0)}`;
  return { server, address, channel: world.transport.channel(address, 'raft'), contexts };
}

function bytesCall(request: Bytes = new Uint8Array(), changes: Partial<RpcCall> = {}): RpcCall {
  return { method: 'Execute', request, timeoutMs: longMs, connectTimeoutMs: longMs, ...changes };
}

async function settled(world: RpcUnderTest, call: Promise<RpcOutcome>): Promise<RpcOutcome> {
  const found: { outcome?: RpcOutcome } = {};
  void call.then((outcome) => (found.outcome = outcome));
  await world.until(() => found.outcome !== undefined);
  return found.outcome as RpcOutcome;
}

/** Waits until the server has the call. */
async function arrived({ contexts }: Rig, world: RpcUnderTest): Promise<RpcContext> {
  await world.until(() => contexts.length > 0);
  return contexts[0] as RpcContext;
}

function end({ server, channel }: Rig): void {
  channel.close();
  server.forceShutdown();
}

const calls: RpcTest[] = [
  {
    name: 'a call is answered, with its metadata there',
    run: async (world) => {
      const rigged = await rig(world, {
        execute: (request: Bytes, context) =>
          Promise.resolve(
            Buffer.from(
              `${context.header('stor-from-id')}|${context.header('none')}|${request[0]}`,
            ),
          ),
      });
      const metadata = { 'stor-from-id': 'n1' };
      const call = rigged.channel.call(bytesCall(Uint8Array.of(7), { metadata }));
      const outcome = await settled(world, call);
      assert.equal(outcome.type, 'answered');
      assert.equal(Buffer.from((outcome as { response: Bytes }).response).toString(), 'n1||7');
      end(rigged);
    },
  },
  {
    name: 'messages of the .proto files have every field',
    run: async (world) => {
      const server = await world.transport.createServer();
      const seen: object[] = [];
      const method: RpcMethod = (request: object) => {
        seen.push(request);
        return Promise.resolve({ epoch: 2 ** 40 });
      };
      const none: RpcMethod = () => Promise.resolve({});
      const known: Record<string, RpcMethod> = { attachHere: method };
      const methods = new Proxy(known, { get: (own, name) => own[String(name)] ?? none });
      server.addService('agent', methods);
      const address = `${host}:${await server.listen(host, 0)}`;
      const channel = world.transport.channel(address, 'agent');
      const call = bytesCall(undefined, { method: 'AttachHere', request: { volumeId: 'v-1' } });
      assert.deepEqual(await settled(world, channel.call(call)), {
        type: 'answered',
        response: { epoch: 2 ** 40 },
      });
      const request = seen[0] as { volumeId: string; mode: string; onlyIfWanted: boolean };
      const { volumeId, mode, onlyIfWanted } = request;
      assert.deepEqual(
        { volumeId, mode, onlyIfWanted },
        { volumeId: 'v-1', mode: '', onlyIfWanted: false },
      );
      channel.close();
      server.forceShutdown();
    },
  },
  {
    name: 'a refusal carries its code and details; what is no error of ours is INTERNAL',
    run: async (world) => {
      const rigged = await rig(world, {
        execute: () =>
          Promise.reject(new StorError('NOT_FOUND', 'no such thing', { details: { what: 'x' } })),
        readIndex: () => Promise.reject(new Error('oops')),
      });
      const refused = await settled(world, rigged.channel.call(bytesCall()));
      assert.equal(refused.type, 'refused');
      const { error } = refused as { error: StorError };
      assert.deepEqual(
        [error.code, error.message, error.details],
        ['NOT_FOUND', 'no such thing', { what: 'x' }],
      );
      const call = bytesCall(undefined, { method: 'ReadIndex' });
      const fault = (await settled(world, rigged.channel.call(call))) as { error: StorError };
      assert.equal(fault.error.code, 'INTERNAL');
      end(rigged);
    },
  },
  {
    name: 'a server that does not know the call refuses it',
    run: async (world) => {
      const server = await world.transport.createServer();
      const address = `${host}:${await server.listen(host, 0)}`;
      const channel = world.transport.channel(address, 'raft');
      const outcome = (await settled(world, channel.call(bytesCall()))) as { error: StorError };
      assert.equal(outcome.error.code, 'FAILED_PRECONDITION');
      channel.close();
      server.forceShutdown();
    },
  },
  {
    name: 'where nobody listens nothing is sent, and later it is',
    run: async (world) => {
      const rigged = await rig(world, { execute: (request: Bytes) => Promise.resolve(request) });
      rigged.server.forceShutdown();
      assert.deepEqual(await settled(world, rigged.channel.call(bytesCall())), {
        type: 'not-sent',
      });
      const again = await world.transport.createServer();
      again.addService('raft', {
        execute: (b: Bytes) => Promise.resolve(b),
        readIndex: silent,
        renewLease: silent,
        members: silent,
      });
      await again.listen(host, Number(rigged.address.split(':')[1]));
      assert.equal((await settled(world, rigged.channel.call(bytesCall()))).type, 'answered');
      again.forceShutdown();
      end(rigged);
    },
  },
  {
    name: 'a call that is not answered in time ends, here and there',
    run: async (world) => {
      const rigged = await rig(world);
      const call = rigged.channel.call(bytesCall(undefined, { timeoutMs: 100 }));
      const { signal } = await arrived(rigged, world);
      assert.deepEqual(await settled(world, call), { type: 'timeout' });
      await world.until(() => signal.aborted);
      end(rigged);
    },
  },
  {
    name: 'a caller that gives up ends the call, here and there',
    run: async (world) => {
      const rigged = await rig(world);
      const caller = new AbortController();
      const call = rigged.channel.call(bytesCall(undefined, { signal: caller.signal }));
      const { signal } = await arrived(rigged, world);
      caller.abort();
      assert.deepEqual(await settled(world, call), { type: 'aborted' });
      await world.until(() => signal.aborted);
      const late = rigged.channel.call(bytesCall(undefined, { signal: caller.signal }));
      assert.deepEqual(await settled(world, late), { type: 'aborted' });
      end(rigged);
    },
  },
  {
    name: 'a server that goes away loses the calls it has',
    run: async (world) => {
      const rigged = await rig(world);
      const call = rigged.channel.call(bytesCall());
      const { signal } = await arrived(rigged, world);
      rigged.server.forceShutdown();
      assert.equal((await settled(world, call)).type, 'lost');
      await world.until(() => signal.aborted);
      end(rigged);
    },
  },
  {
    name: 'answers come in any order, large ones too',
    run: async (world) => {
      const gates = new Map<number, () => void>();
      const execute: RpcMethod = async (request: Bytes) => {
        await new Promise<void>((resolve) => gates.set(request[0] ?? 0, resolve));
        return request;
      };
      const rigged = await rig(world, { execute });
      const large = new Uint8Array(8 * 1024 * 1024).fill(1);
      const first = rigged.channel.call(bytesCall(large));
      const second = rigged.channel.call(bytesCall(Uint8Array.of(2)));
      await world.until(() => gates.size === 2);
      gates.get(2)?.();
      assert.equal((await settled(world, second)).type, 'answered');
      gates.get(1)?.();
      const outcome = await settled(world, first);
      assert.ok(Buffer.from(large).equals((outcome as { response: Buffer }).response));
      end(rigged);
    },
  },
  {
    name: 'a closed channel sends nothing',
    run: async (world) => {
      const rigged = await rig(world);
      rigged.channel.close();
      rigged.channel.close();
      assert.deepEqual(await settled(world, rigged.channel.call(bytesCall())), {
        type: 'not-sent',
      });
      end(rigged);
    },
  },
  {
    name: 'a port is taken once',
    run: async (world) => {
      const rigged = await rig(world);
      const other = await world.transport.createServer();
      const port = Number(rigged.address.split(':')[1]);
      await assert.rejects(other.listen(host, port), /EADDRINUSE|address already in use/i);
      other.forceShutdown();
      end(rigged);
    },
  },
];

/** Both ends of a stream, and what they have heard. */
interface Stream {
  server: RpcServer;
  heard: string[];
  batches: Bytes[];
  incoming: IncomingStream[];
  write(batch: Bytes): boolean;
  close(): void;
}

async function stream(
  world: RpcUnderTest,
  options: { refuse?: StorError; onBatch?: (batch: Bytes) => void; address?: string } = {},
): Promise<Stream> {
  const heard: string[] = [];
  const batches: Bytes[] = [];
  const incoming: IncomingStream[] = [];
  const server = await world.transport.createServer();
  server.addService('raft', {
    execute: silent,
    readIndex: silent,
    renewLease: silent,
    members: silent,
  });
  server.addStream((one) => {
    heard.push(`from ${one.header('stor-from-id')}`);
    if (options.refuse) {
      one.end(options.refuse);
      return;
    }
    incoming.push(one);
    one.accept({
      batch: (batch) => {
        batches.push(batch);
        options.onBatch?.(batch);
      },
      closed: () => heard.push('closed'),
    });
  });
  const address = options.address ?? `${host}:${await server.listen(host, 0)}`;
  const outgoing = world.transport.openStream(
    address,
    { 'stor-from-id': 'n1' },
    {
      accepted: () => heard.push('accepted'),
      drained: () => heard.push('drained'),
      broken: (reason) => heard.push(`broken ${reason}`),
    },
  );
  return {
    server,
    heard,
    batches,
    incoming,
    write: (batch) => outgoing.write(batch),
    close: () => {
      outgoing.close();
      server.forceShutdown();
    },
  };
}

const hasBroken = (opened: Stream) => opened.heard.some((text) => text.startsWith('broken'));

const streams: RpcTest[] = [
  {
    name: 'a stream is accepted and carries batches in order, small and large',
    run: async (world) => {
      const opened = await stream(world);
      await world.until(() => opened.heard.includes('accepted'));
      const sizes = [1, 100_000, 3_000_000, 0, 524_288, 524_289, 5];
      const sent = sizes.map((size, i) => new Uint8Array(size).fill(i + 1));
      for (const batch of sent) opened.write(batch);
      await world.until(() => opened.batches.length === sent.length);
      sent.forEach((batch, i) => {
        assert.ok(Buffer.from(batch).equals(opened.batches[i] as Bytes), `batch ${i}`);
      });
      assert.deepEqual(opened.heard.slice(0, 2), ['from n1', 'accepted']);
      opened.close();
      await world.until(() => opened.heard.includes('closed'));
      assert.ok(!hasBroken(opened), 'who closes it does not hear of it');
    },
  },
  {
    name: 'a writer is told when it is full and when it may go on',
    run: async (world) => {
      const opened = await stream(world);
      await world.until(() => opened.heard.includes('accepted'));
      const batch = new Uint8Array(8 * 1024 * 1024);
      let room = true;
      for (let i = 0; i < 8 && room; i++) room = opened.write(batch);
      assert.equal(room, false);
      await world.until(() => opened.heard.includes('drained'));
      assert.equal(opened.write(Uint8Array.of(1)), true);
      opened.close();
    },
  },
  {
    name: 'a refused stream is never accepted, and breaks with the reason',
    run: async (world) => {
      const refuse = new StorError('PERMISSION_DENIED', 'not you');
      const opened = await stream(world, { refuse });
      await world.until(() => hasBroken(opened));
      assert.ok(!opened.heard.includes('accepted'));
      assert.match(opened.heard.at(-1) ?? '', /not you/);
      opened.close();
    },
  },
  {
    name: 'the receiver ends a stream, which breaks it once',
    run: async (world) => {
      const opened = await stream(world);
      await world.until(() => opened.heard.includes('accepted'));
      opened.incoming[0]?.end(new StorError('UNAVAILABLE', 'enough'));
      opened.incoming[0]?.end(new StorError('UNAVAILABLE', 'enough'));
      await world.until(() => hasBroken(opened));
      assert.match(opened.heard.at(-1) ?? '', /enough/);
      opened.close();
      assert.deepEqual(opened.heard.filter((text) => text.startsWith('broken')).length, 1);
    },
  },
  {
    name: 'a receiver that throws ends the stream with its error',
    run: async (world) => {
      const onBatch = (): never => {
        throw new StorError('PROTOCOL', 'nonsense');
      };
      const opened = await stream(world, { onBatch });
      await world.until(() => opened.heard.includes('accepted'));
      opened.write(Uint8Array.of(1));
      await world.until(() => hasBroken(opened));
      assert.match(opened.heard.find((text) => text.startsWith('broken')) ?? '', /nonsense/);
      assert.equal(opened.heard.filter((text) => text === 'closed').length, 1);
      opened.close();
    },
  },
  {
    name: 'a server that goes away breaks its streams',
    run: async (world) => {
      const opened = await stream(world);
      await world.until(() => opened.heard.includes('accepted'));
      opened.server.forceShutdown();
      await world.until(() => hasBroken(opened) && opened.heard.includes('closed'));
      opened.close();
    },
  },
  {
    name: 'a stream to where nobody listens breaks',
    run: async (world) => {
      const gone = await world.transport.createServer();
      const address = `${host}:${await gone.listen(host, 0)}`;
      gone.forceShutdown();
      const opened = await stream(world, { address });
      await world.until(() => hasBroken(opened));
      opened.close();
    },
  },
];

/** What gRPC and every model of it does. */
export const rpcTransportSuite: RpcTest[] = [...calls, ...streams, ...answerStreams];
