import assert from 'node:assert/strict';
import { StorError, type RpcOutcome } from '@stor/protocol';
import type { RpcContext, RpcMethod, RpcServer, RpcStreamMethod } from '../rpc/rpc-transport.ts';
import type { RpcTest, RpcUnderTest } from './rpc-suite.ts';

const host = '127.0.0.1';
/** so long that no test ends by it (ms) */
const longMs = 60_000;

interface Watched {
  server: RpcServer;
  contexts: RpcContext[];
  received: number[];
  outcome: RpcOutcome | null;
  /** the client does not read on until it is called */
  readOn: (() => void)[];
  stop: AbortController;
  close(): void;
}

/** A server whose `Watch` is the given method, and a client that reads it. */
async function watched(
  world: RpcUnderTest,
  method: RpcStreamMethod,
  options: { holdsBack?: boolean } = {},
): Promise<Watched> {
  const server = await world.transport.createServer();
  const none: RpcMethod = () => Promise.resolve({});
  const methods = new Proxy<Record<string, RpcMethod>>({}, { get: () => none });
  const contexts: RpcContext[] = [];
  const watch: RpcStreamMethod = (request, context, send) => {
    contexts.push(context);
    return method(request, context, send);
  };
  server.addService('stor', methods, { watch });
  const address = `${host}:${await server.listen(host, 0)}`;
  const channel = world.transport.channel(address, 'stor');
  const stop = new AbortController();
  const opened: Watched = {
    server,
    contexts,
    received: [],
    outcome: null,
    readOn: [],
    stop,
    close: () => {
      channel.close();
      server.forceShutdown();
    },
  };
  const streaming = channel.stream({
    method: 'Watch',
    request: { name: 'db' },
    connectTimeoutMs: longMs,
    signal: stop.signal,
    received: (message) => {
      opened.received.push((message as { revision: number }).revision);
      if (options.holdsBack !== true) return;
      return new Promise((resolve) => opened.readOn.push(resolve));
    },
  });
  void streaming.then((outcome) => {
    opened.outcome = outcome;
  });
  return opened;
}

const forEver = (): Promise<never> => new Promise(() => {});

/** Calls that are answered with messages. */
export const answerStreams: RpcTest[] = [
  {
    name: 'a call is answered with messages, and ends',
    run: async (world) => {
      const opened = await watched(world, async ({ name }: { name: string }, _context, send) => {
        assert.equal(name, 'db');
        for (const revision of [1, 2, 3]) await send({ revision });
      });
      await world.until(() => opened.outcome !== null);
      assert.deepEqual(opened.outcome, { type: 'answered', response: null });
      assert.deepEqual(opened.received, [1, 2, 3]);
      opened.close();
    },
  },
  {
    name: 'messages that come before an error are read',
    run: async (world) => {
      const opened = await watched(world, async (_request, _context, send) => {
        await send({ revision: 1 });
        throw new StorError('COMPACTED', 'list again', { details: { keptAfter: '7' } });
      });
      await world.until(() => opened.outcome !== null);
      assert.deepEqual(opened.received, [1]);
      const { outcome } = opened;
      assert.ok(outcome?.type === 'refused');
      assert.equal(outcome.error.code, 'COMPACTED');
      assert.deepEqual(outcome.error.details, { keptAfter: '7' });
      opened.close();
    },
  },
  {
    name: 'the server hears that the reader is gone',
    run: async (world) => {
      const opened = await watched(world, async (_request, _context, send) => {
        await send({ revision: 1 });
        await forEver();
      });
      await world.until(() => opened.received.length === 1);
      opened.stop.abort();
      await world.until(() => opened.outcome !== null);
      assert.deepEqual(opened.outcome, { type: 'aborted' });
      await world.until(() => opened.contexts[0]?.signal.aborted === true);
      opened.close();
    },
  },
  {
    name: 'a server that goes away loses its streams',
    run: async (world) => {
      const opened = await watched(world, async (_request, _context, send) => {
        await send({ revision: 1 });
        await forEver();
      });
      await world.until(() => opened.received.length === 1);
      opened.server.forceShutdown();
      await world.until(() => opened.outcome !== null);
      assert.equal(opened.outcome?.type, 'lost');
      opened.close();
    },
  },
  {
    name: 'a reader that is not done reads one message after the other',
    run: async (world) => {
      const method: RpcStreamMethod = async (_request, _context, send) => {
        for (const revision of [1, 2, 3]) await send({ revision });
      };
      const opened = await watched(world, method, { holdsBack: true });
      for (const count of [1, 2, 3]) {
        await world.until(() => opened.readOn.length === count);
        assert.equal(opened.received.length, count);
        opened.readOn[count - 1]?.();
      }
      await world.until(() => opened.outcome !== null);
      opened.close();
    },
  },
];

/** What the model of gRPC does not do: its readers hold what they are sent. */
export const slowReader: RpcTest = {
  name: 'the server is made to wait for a reader that does not read',
  run: async (world) => {
    const text = 'x'.repeat(64 * 1024);
    const sent = { messages: 0 };
    const method: RpcStreamMethod = async (_request, _context, send) => {
      for (;;) {
        await send({ revision: sent.messages, history: text });
        sent.messages += 1;
      }
    };
    const opened = await watched(world, method, { holdsBack: true });
    let before = -1;
    // it comes to rest after what the sockets of the host and both ends hold
    for (let quiet = 0; quiet < 200; quiet = sent.messages === before ? quiet + 1 : 0) {
      before = sent.messages;
      await new Promise((resolve) => setTimeout(resolve, 1));
      assert.ok(sent.messages < 4_000, `${sent.messages} messages of 64 KiB wait`);
    }
    assert.ok(sent.messages > 0);
    opened.stop.abort();
    for (const readOn of opened.readOn) readOn();
    await world.until(() => opened.outcome !== null);
    opened.close();
  },
};
