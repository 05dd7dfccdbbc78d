import type {
  Metadata,
  Server,
  ServerReadableStream,
  ServerUnaryCall,
  StatusObject,
  UntypedServiceImplementation,
  sendUnaryData,
} from '@grpc/grpc-js';
import { Metadata as GrpcMetadata } from '@grpc/grpc-js';
import { StorError, encodeRpcError, errorMetadataKey } from '@stor/protocol';
import { checkCaller, raftServiceDefinition } from './raft-rpc.ts';
import { BatchAssembler } from './raft-frames.ts';

/** What a member does for others. Each rejects with UNAVAILABLE when nothing has happened. */
export interface RaftServiceHandlers {
  /** PROTOCOL when the bytes are no batch, or not from this member. */
  receive(from: string, batch: Uint8Array): void;
  execute(request: Uint8Array): Promise<Uint8Array>;
  readIndex(request: Uint8Array): Promise<Uint8Array>;
  renewLease(request: Uint8Array): Promise<Uint8Array>;
}

type Bytes = Uint8Array;
type SendCall = ServerReadableStream<Bytes, Bytes>;

/** A gRPC status with our error in its trailers. */
function statusOf(error: unknown): Partial<StatusObject> {
  const wire = encodeRpcError(StorError.from(error));
  const metadata = new GrpcMetadata();
  metadata.set(errorMetadataKey, Buffer.from(wire.metadata));
  return { code: wire.status, details: wire.text, metadata };
}

/** The member's side of the calls in `raft-rpc.ts`. */
export class RaftService {
  readonly #self: { clusterId: string; id: string; memberIds: ReadonlySet<string> };
  #handlers: RaftServiceHandlers | null = null;
  /** the open stream of each peer, and how to end it */
  readonly #streams = new Map<string, (error: StorError) => void>();

  constructor(self: { clusterId: string; id: string; memberIds: ReadonlySet<string> }) {
    this.#self = self;
  }

  /** Callers are answered UNAVAILABLE until `start`. */
  addTo(server: Server): void {
    const implementation: UntypedServiceImplementation = {
      Send: (call: SendCall, callback: sendUnaryData<Bytes>) => {
        this.#send(call, callback);
      },
      Execute: this.#unary((handlers, request) => handlers.execute(request)),
      ReadIndex: this.#unary((handlers, request) => handlers.readIndex(request)),
      RenewLease: this.#unary((handlers, request) => handlers.renewLease(request)),
    };
    server.addService(raftServiceDefinition, implementation);
  }

  start(handlers: RaftServiceHandlers): void {
    this.#handlers = handlers;
  }

  /** Ends the streams of the others, so that the server can shut down. */
  stop(): void {
    this.#handlers = null;
    for (const end of [...this.#streams.values()]) end(this.#stopped());
  }

  #stopped(): StorError {
    return new StorError('UNAVAILABLE', `the cluster store of member ${this.#self.id} is not open`);
  }

  #enter(metadata: Metadata): { from: string; handlers: RaftServiceHandlers } {
    const from = checkCaller(metadata, this.#self);
    if (!this.#handlers) throw this.#stopped();
    return { from, handlers: this.#handlers };
  }

  #unary(run: (handlers: RaftServiceHandlers, request: Bytes) => Promise<Bytes>) {
    const handle = async (call: ServerUnaryCall<Bytes, Bytes>): Promise<Bytes> => {
      const { handlers } = this.#enter(call.metadata);
      return run(handlers, call.request);
    };
    return (call: ServerUnaryCall<Bytes, Bytes>, callback: sendUnaryData<Bytes>): void => {
      handle(call).then(
        (response) => {
          callback(null, response);
        },
        (error: unknown) => {
          callback(statusOf(error));
        },
      );
    };
  }

  #send(call: SendCall, callback: sendUnaryData<Bytes>): void {
    const batches = new BatchAssembler();
    let ended = false;
    let from = '';
    const end = (error: StorError | null): void => {
      if (ended) return;
      ended = true;
      if (this.#streams.get(from) === end) this.#streams.delete(from);
      if (error) callback(statusOf(error));
      else callback(null, new Uint8Array());
    };
    try {
      from = this.#enter(call.metadata).from;
    } catch (error) {
      end(StorError.from(error));
      return;
    }
    // one stream per peer: a newer one means that the older one is dead
    this.#streams.get(from)?.(new StorError('UNAVAILABLE', 'replaced by a newer stream'));
    this.#streams.set(from, end);
    call.sendMetadata(new GrpcMetadata());
    call.on('data', (piece: Bytes) => {
      if (ended) return;
      try {
        const batch = batches.add(piece);
        if (batch) this.#handlers?.receive(from, batch);
      } catch (error) {
        end(StorError.from(error));
      }
    });
    call.on('end', () => {
      end(null);
    });
    call.on('error', (error: Error) => {
      end(StorError.from(error));
    });
    call.on('cancelled', () => {
      end(new StorError('ABORTED', 'the peer went away'));
    });
  }
}
