import { StorError } from '@stor/protocol';
import type { Logger } from '@stor/runtime';
import { joinedSignal } from '../resources/joined-signal.ts';
import { longLivedController } from '../resources/long-lived.ts';
import type { RpcContext, RpcMethod, RpcStreamMethod } from '../rpc/rpc-transport.ts';

/** `signal` aborts when the caller is gone or the node stops. */
export type CallContext = RpcContext;

export type UnaryMethod = RpcMethod;

/** Calls that are being answered: closing refuses new ones and waits for the rest. */
export class OpenCalls {
  readonly #open = new Set<Promise<void>>();
  readonly #closing = longLivedController();

  get signal(): AbortSignal {
    return this.#closing.signal;
  }

  track(answer: Promise<unknown>): void {
    const done = (): void => {
      this.#open.delete(tracked);
    };
    const tracked = answer.then(done, done);
    this.#open.add(tracked);
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.allSettled(this.#open);
  }
}

/**
 * Methods of a service as a server takes them: calls are tracked, and every error leaves as a
 * StorError; one that is none is a fault of ours and is logged with its stack.
 */
export function servedMethods(
  methods: Readonly<Record<string, UnaryMethod>>,
  options: { calls: OpenCalls; logger: Logger },
): Record<string, RpcMethod> {
  return Object.fromEntries(
    Object.entries(methods).map(([name, method]): [string, RpcMethod] => [
      name,
      (request: never, context: RpcContext) => {
        const answer = answered(name, method, request, context, options);
        options.calls.track(answer);
        return answer;
      },
    ]),
  );
}

/** As `servedMethods`, for calls that are answered with messages. */
export function servedStreams(
  methods: Readonly<Record<string, RpcStreamMethod>>,
  options: { calls: OpenCalls; logger: Logger },
): Record<string, RpcStreamMethod> {
  return Object.fromEntries(
    Object.entries(methods).map(([name, method]): [string, RpcStreamMethod] => [
      name,
      (request: never, context: RpcContext, send) => {
        const answer = answered(name, (r, c) => method(r, c, send), request, context, options);
        options.calls.track(answer);
        return answer;
      },
    ]),
  );
}

async function answered<T>(
  name: string,
  method: (request: never, context: RpcContext) => Promise<T>,
  request: never,
  context: RpcContext,
  options: { calls: OpenCalls; logger: Logger },
): Promise<T> {
  const closing = options.calls.signal;
  const { signal, dispose } = joinedSignal([context.signal, closing]);
  try {
    if (closing.aborted) throw new StorError('UNAVAILABLE', 'the node is stopping');
    return await method(request, { signal, header: (key) => context.header(key) });
  } catch (thrown) {
    const error = StorError.from(thrown);
    if (error.code === 'ABORTED' && closing.aborted) {
      throw new StorError('OUTCOME_UNKNOWN', 'the node stopped before it was done: look again');
    }
    if (error.code === 'INTERNAL') {
      options.logger.error({ call: name, error: error.message, stack: error.stack }, 'call failed');
    }
    throw error;
  } finally {
    dispose();
  }
}
