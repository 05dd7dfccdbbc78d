import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { GrpcObject, ServiceClientConstructor, ServiceDefinition } from '@grpc/grpc-js';

export const csiServiceNames = [
  'Identity',
  'Controller',
  'GroupController',
  'SnapshotMetadata',
  'Node',
] as const;
export type CsiServiceName = (typeof csiServiceNames)[number];

export type CsiServices = Readonly<Record<CsiServiceName, ServiceDefinition>>;

/** The same folder serves sources (`src`) and the build (`dist/src`). */
function protoFolder(): string {
  const candidates = ['../proto/', '../../proto/'].map((relative) =>
    fileURLToPath(new URL(relative, import.meta.url)),
  );
  return candidates.find((folder) => existsSync(folder)) ?? candidates.join(' or ');
}

async function load(): Promise<CsiServices> {
  const grpc = await import('@grpc/grpc-js');
  const loader = await import('@grpc/proto-loader');
  const definition = await loader.load('csi.proto', {
    includeDirs: [protoFolder()],
    keepCase: false,
    longs: Number,
    enums: String,
    defaults: true,
    arrays: true,
    objects: true,
  });
  const loaded = grpc.loadPackageDefinition(definition);
  const service = (name: CsiServiceName): ServiceDefinition => {
    let at: unknown = loaded;
    for (const part of ['csi', 'v1', name]) at = (at as GrpcObject)[part];
    return (at as ServiceClientConstructor).service;
  };
  return {
    Identity: service('Identity'),
    Controller: service('Controller'),
    GroupController: service('GroupController'),
    SnapshotMetadata: service('SnapshotMetadata'),
    Node: service('Node'),
  };
}

let services: Promise<CsiServices> | null = null;

/** The services of csi.proto, loaded once per process; `messages.ts` says how messages look. */
export function loadCsiServices(): Promise<CsiServices> {
  services ??= load();
  return services;
}
