import { Metadata } from '@grpc/grpc-js';
import type {
  sendUnaryData,
  ServerUnaryCall,
  ServiceDefinition,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { encodeRpcError, errorMetadataKey, StorError } from '@stor/protocol';
import type { Logger } from '@stor/runtime';

export interface CallContext {
  /** aborts when the caller is gone or the node stops */
  signal: AbortSignal;
  /** a value of the call's metadata; empty when absent */
  header(name: string): string;
}

export type UnaryMethod = (request: never, context: CallContext) => Promise<object>;

/** Calls that are being answered: closing refuses new ones and waits for the rest. */
export class OpenCalls {
  readonly #open = new Set<Promise<void>>();
  readonly #closing = new AbortController();

  get signal(): AbortSignal {
    return this.#closing.signal;
  }

  track(answer: Promise<void>): void {
    const tracked = answer.finally(() => {
      this.#open.delete(tracked);
    });
    this.#open.add(tracked);
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.allSettled(this.#open);
  }
}

/**
 * gRPC handlers for a service whose methods are functions from request to response. Every error
 * leaves as a StorError; one that is none is a fault of ours and is logged with its stack.
 */
export function unaryHandlers(
  definition: ServiceDefinition,
  methods: Readonly<Record<string, UnaryMethod>>,
  options: { calls: OpenCalls; logger: Logger },
): UntypedServiceImplementation {
  const handlers: UntypedServiceImplementation = {};
  for (const [name, { originalName }] of Object.entries(definition)) {
    const method = methods[originalName ?? name];
    if (!method) throw new StorError('INTERNAL', `no implementation of ${name}`);
    handlers[name] = (
      call: ServerUnaryCall<object, object>,
      callback: sendUnaryData<object>,
    ): void => {
      options.calls.track(answer(name, method, call, callback, options));
    };
  }
  return handlers;
}

async function answer(
  name: string,
  method: UnaryMethod,
  call: ServerUnaryCall<object, object>,
  callback: sendUnaryData<object>,
  options: { calls: OpenCalls; logger: Logger },
): Promise<void> {
  const gone = new AbortController();
  call.on('cancelled', () => {
    gone.abort();
  });
  const context: CallContext = {
    signal: AbortSignal.any([gone.signal, options.calls.signal]),
    header: (key) => {
      const value = call.metadata.get(key)[0];
      return typeof value === 'string' ? value : '';
    },
  };
  try {
    if (options.calls.signal.aborted) throw new StorError('UNAVAILABLE', 'the node is stopping');
    callback(null, await method(call.request as never, context));
  } catch (thrown) {
    let error = StorError.from(thrown);
    if (error.code === 'ABORTED' && options.calls.signal.aborted) {
      error = new StorError('OUTCOME_UNKNOWN', 'the node stopped before it was done: look again');
    }
    if (error.code === 'INTERNAL') {
      options.logger.error({ call: name, error: error.message, stack: error.stack }, 'call failed');
    }
    const { status, text, metadata: bytes } = encodeRpcError(error);
    const metadata = new Metadata();
    metadata.set(errorMetadataKey, Buffer.from(bytes));
    callback({ code: status, details: text, metadata });
  }
}
