import { chmod, lstat, mkdir, unlink } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { Server, ServerCredentials } from '@grpc/grpc-js';
import type {
  sendUnaryData,
  ServerUnaryCall,
  ServerWritableStream,
  ServiceDefinition,
  StatusObject,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { StorError } from '@stor/protocol';
import type { Clock } from '@stor/runtime';
import { csiStatusOf } from './core/csi-error.ts';
import type { CsiServiceName, CsiServices } from './csi-services.ts';
import type { ServedCalls } from './served-calls.ts';
import type { Send } from './services/metadata-service.ts';

/** `sun_path` has 108 bytes, the last one zero. */
const maxSocketPathBytes = 107;
/** Calls of one client at a time; sidecars keep some dozens under way. */
const maxStreams = 1_024;
/** Answers that are written still reach their clients within this, when the server ends (ms). */
const closeGraceMs = 1_000;
/** Whoever listens at a socket of this host answers at once (ms). */
const probeMs = 1_000;

/** A method as the services have it: a request, and what tells it to give up. */
export type UnaryMethod = (request: never, signal: AbortSignal) => Promise<object>;
export type StreamMethod = (request: never, send: Send, signal: AbortSignal) => Promise<void>;

export interface ServedService {
  name: CsiServiceName;
  /** in camelCase; every one that the service has */
  methods: Readonly<Record<string, UnaryMethod>>;
  streams?: Readonly<Record<string, StreamMethod>>;
}

/** gRPC on one UNIX socket. */
export class CsiServer {
  readonly path: string;
  readonly #server: Server;
  readonly #clock: Clock;
  #closing: Promise<void> | null = null;

  private constructor(path: string, server: Server, clock: Clock) {
    this.path = path;
    this.#server = server;
    this.#clock = clock;
  }

  /**
   * Takes the place of a socket that nobody listens at. IN_USE: somebody does; FOREIGN_DATA: it is no socket;
   * INVALID_ARGUMENT: the path is too long.
   */
  static async open(options: {
    path: string;
    definitions: CsiServices;
    services: readonly ServedService[];
    calls: ServedCalls;
    clock: Clock;
  }): Promise<CsiServer> {
    const { path, definitions, services, calls, clock } = options;
    const server = new Server({ 'grpc.max_concurrent_streams': maxStreams });
    for (const service of services) {
      const definition = definitions[service.name];
      server.addService(definition, handlersOf(definition, service, calls));
    }
    await makeRoom(path);
    await bind(server, path);
    // whoever may connect may make and delete volumes
    await chmod(path, 0o600);
    return new CsiServer(path, server, clock);
  }

  /** The calls that it serves are closed first. Works twice. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await new Promise<void>((resolve) => {
      const cancel = this.#clock.after(closeGraceMs, () => {
        this.#server.forceShutdown();
        resolve();
      });
      this.#server.tryShutdown(() => {
        cancel();
        resolve();
      });
    });
    await unlink(this.path).catch(() => {});
  }
}

function handlersOf(
  definition: ServiceDefinition,
  { name, methods, streams = {} }: ServedService,
  calls: ServedCalls,
): UntypedServiceImplementation {
  const handlers: UntypedServiceImplementation = {};
  for (const [key, { originalName, responseStream }] of Object.entries(definition)) {
    const own = originalName ?? key.charAt(0).toLowerCase() + key.slice(1);
    const streamed = streams[own];
    const unary = methods[own];
    if (responseStream && streamed) {
      handlers[key] = (call: ServerWritableStream<object, object>) => {
        answerWithStream(`${name}.${key}`, streamed, call, calls);
      };
    } else if (!responseStream && unary) {
      handlers[key] = (call: ServerUnaryCall<object, object>, callback: sendUnaryData<object>) => {
        calls
          .run(`${name}.${key}`, (signal) => unary(call.request as never, signal))
          .then(
            (response) => {
              callback(null, response);
            },
            (error: unknown) => {
              callback(statusOf(error));
            },
          );
      };
    } else {
      throw new StorError('INTERNAL', `no implementation of ${name}.${key}`);
    }
  }
  return handlers;
}

/** Without details: the specification wants none besides code and message. */
function statusOf(error: unknown): Partial<StatusObject> {
  const { number, message } = csiStatusOf(error);
  return { code: number, details: message };
}

/** One message is written when there is room for it; a reader that is gone ends the call. */
function answerWithStream(
  name: string,
  method: StreamMethod,
  call: ServerWritableStream<object, object>,
  calls: ServedCalls,
): void {
  let wake = (): void => {};
  let isGone = false;
  const gone = (): void => {
    isGone = true;
    wake();
  };
  call.on('drain', () => {
    wake();
  });
  call.on('cancelled', gone);
  // a broken connection says so here too; without a listener it would end the process
  call.on('error', gone);
  const run = async (signal: AbortSignal): Promise<void> => {
    signal.addEventListener('abort', gone, { once: true });
    const send: Send = async (message) => {
      signal.throwIfAborted();
      if (isGone) throw new StorError('ABORTED', 'the reader is gone');
      if (call.write(message)) return;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
      if (isGone) throw new StorError('ABORTED', 'the reader is gone');
    };
    try {
      await method(call.request as never, send, signal);
    } finally {
      signal.removeEventListener('abort', gone);
    }
  };
  calls.run(name, run).then(
    () => {
      if (!isGone) call.end();
    },
    (error: unknown) => {
      if (!call.cancelled) call.emit('error', statusOf(error));
    },
  );
}

function bind(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (cause) => {
      if (!cause) {
        resolve();
        return;
      }
      const message = `cannot listen at ${path}: ${cause.message}`;
      reject(new StorError('FAILED_PRECONDITION', message, { cause }));
    });
  });
}

async function makeRoom(path: string): Promise<void> {
  if (Buffer.byteLength(path) > maxSocketPathBytes) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `the socket path ${path} is longer than ${maxSocketPathBytes} bytes`,
    );
  }
  await mkdir(dirname(path), { recursive: true, mode: 0o750 });
  const found = await lstat(path).catch(() => null);
  if (!found) return;
  if (!found.isSocket()) {
    throw new StorError('FOREIGN_DATA', `${path} is there already, and is no socket`);
  }
  if (await isListening(path)) {
    throw new StorError('IN_USE', `another process listens at ${path}: stop it, or name another`);
  }
  await unlink(path);
}

function isListening(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const done = (answer: boolean): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.setTimeout(probeMs, () => {
      done(true);
    });
    socket.once('connect', () => {
      done(true);
    });
    socket.once('error', () => {
      done(false);
    });
  });
}
