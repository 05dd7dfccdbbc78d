import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { ServiceDefinition } from '@grpc/grpc-js';
import type { GrpcObject, ServiceClientConstructor } from '@grpc/grpc-js';

/** The gRPC services of Stor, as grpc-js wants them for servers and clients. */
export interface Services {
  /** stor.v1.Stor: the public API */
  stor: ServiceDefinition;
  /** stor.internal.v1.Agent: node to node */
  agent: ServiceDefinition;
}

/** The same folder serves sources (`src/rpc`) and the build (`dist/src/rpc`). */
function protoFolder(): string {
  const candidates = ['../../proto/', '../../../proto/'].map((relative) =>
    fileURLToPath(new URL(relative, import.meta.url)),
  );
  return candidates.find((folder) => existsSync(folder)) ?? candidates.join(' or ');
}

async function load(): Promise<Services> {
  // gRPC is loaded on first use, so that what needs only types, errors and limits starts quickly
  const grpc = await import('@grpc/grpc-js');
  const loader = await import('@grpc/proto-loader');
  const definition = await loader.load(['stor.proto', 'agent.proto'], {
    includeDirs: [protoFolder()],
    keepCase: false,
    longs: Number,
    defaults: true,
    arrays: true,
    objects: true,
  });
  const loaded = grpc.loadPackageDefinition(definition);
  return {
    stor: serviceIn(loaded, 'stor.v1.Stor'),
    agent: serviceIn(loaded, 'stor.internal.v1.Agent'),
  };
}

function serviceIn(loaded: GrpcObject, path: string): ServiceDefinition {
  let at: unknown = loaded;
  for (const part of path.split('.')) at = (at as GrpcObject)[part];
  return (at as ServiceClientConstructor).service;
}

let services: Promise<Services> | null = null;

/**
 * Loads the service definitions from the .proto files, once per process. Messages decode to plain
 * objects in camelCase with every field present; an absent message is null; int64 is a number.
 */
export function loadServices(): Promise<Services> {
  services ??= load();
  return services;
}
