import { StorError } from '@stor/protocol';
import type { IncomingStream, RpcContext, RpcMethod, RpcServer } from '../rpc/rpc-transport.ts';
import { checkCaller, versionHeader, type CallerIdentity } from './raft-rpc.ts';

type Bytes = Uint8Array;

/** What a member does for others. Each rejects with UNAVAILABLE when nothing has happened. */
export interface RaftServiceHandlers {
  /** PROTOCOL when the bytes are no batch, or not from this member. */
  receive(from: string, batch: Bytes): void;
  execute(request: Bytes): Promise<Bytes>;
  readIndex(request: Bytes): Promise<Bytes>;
  renewLease(request: Bytes): Promise<Bytes>;
  members(request: Bytes): Promise<Bytes>;
}

/** Who may call. */
export interface RaftCallers {
  /** A caller says up to which level of the state it can follow; one of an earlier version 1. */
  heard(id: string, level: number): void;
  /** A caller says where it is called back. */
  learn(id: string, address: string): void;
  /** May it have commands done here? Only members may. */
  isMember(id: string): boolean;
  /**
   * It was a member and is none any more. Messages of Raft are taken from everybody else: a member
   * that was added while this one was away must get this one's vote before this one knows of it.
   */
  hasLeft(id: string): boolean;
  /** For one that is gone for ever: since when, and what to do. */
  whyGone(id: string): string | null;
}

/** The member's side of the calls in `raft-rpc.ts`. */
export class RaftService {
  readonly #self: CallerIdentity;
  #handlers: RaftServiceHandlers | null = null;
  #callers: RaftCallers | null = null;
  /** the open stream of each peer */
  readonly #streams = new Map<string, IncomingStream>();

  constructor(self: CallerIdentity) {
    this.#self = self;
  }

  /** Callers are answered UNAVAILABLE until `start`. */
  addTo(server: RpcServer): void {
    server.addService('raft', {
      execute: this.#unary((handlers, request) => handlers.execute(request)),
      readIndex: this.#unary((handlers, request) => handlers.readIndex(request)),
      renewLease: this.#unary((handlers, request) => handlers.renewLease(request)),
      members: this.#unary((handlers, request) => handlers.members(request)),
    });
    server.addStream((stream) => {
      this.#take(stream);
    });
  }

  start(handlers: RaftServiceHandlers, callers: RaftCallers): void {
    this.#handlers = handlers;
    this.#callers = callers;
  }

  /** Ends the streams of the others, so that the server can shut down. */
  stop(): void {
    this.#handlers = null;
    const streams = [...this.#streams.values()];
    this.#streams.clear();
    for (const stream of streams) stream.end(this.#stopped());
  }

  #stopped(): StorError {
    return new StorError('UNAVAILABLE', `the cluster store of member ${this.#self.id} is not open`);
  }

  #enter(call: Pick<RpcContext, 'header'>): {
    from: string;
    handlers: RaftServiceHandlers;
    isMember: boolean;
    version: number;
  } {
    const { id, address, version } = checkCaller(call, this.#self);
    const { handlers, callers } = { handlers: this.#handlers, callers: this.#callers };
    if (!handlers || !callers) throw this.#stopped();
    if (id === '' || callers.hasLeft(id)) throw noMember(id, callers.whyGone(id));
    if (address !== '') callers.learn(id, address);
    callers.heard(id, Number(call.header('stor-kv-level')) || 1);
    return { from: id, handlers, isMember: callers.isMember(id), version };
  }

  #unary(run: (handlers: RaftServiceHandlers, request: Bytes) => Promise<Bytes>): RpcMethod {
    return async (request: Bytes, context: RpcContext): Promise<Bytes> => {
      const { from, handlers, isMember } = this.#enter(context);
      if (!isMember) throw noMember(from, this.#callers?.whyGone(from) ?? null);
      return run(handlers, request);
    };
  }

  #take(stream: IncomingStream): void {
    let from: string;
    let version: number;
    try {
      ({ from, version } = this.#enter(stream));
    } catch (error) {
      stream.end(StorError.from(error));
      return;
    }
    // one stream per peer: a newer one means that the older one is dead
    this.#streams.get(from)?.end(new StorError('UNAVAILABLE', 'replaced by a newer stream'));
    this.#streams.set(from, stream);
    const events = {
      batch: (bytes: Bytes) => {
        // a throw ends the stream, with the error as its reason
        if (this.#streams.get(from) === stream) this.#handlers?.receive(from, bytes);
      },
      closed: () => {
        if (this.#streams.get(from) === stream) this.#streams.delete(from);
      },
    };
    stream.accept(events, { [versionHeader]: String(version) });
  }
}

function noMember(id: string, why: string | null): StorError {
  if (why !== null) return new StorError('PERMISSION_DENIED', why);
  return new StorError(
    'PERMISSION_DENIED',
    `${id || 'the caller'} is no member of the cluster, or not any more`,
  );
}
