import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { loadPackageDefinition, type ServiceDefinition } from '@grpc/grpc-js';
import type { GrpcObject, ServiceClientConstructor } from '@grpc/grpc-js';
import { load as loadProto } from '@grpc/proto-loader';

export type EtcdServiceName = 'KV' | 'Watch' | 'Lease' | 'Auth' | 'Maintenance';
export type EtcdServices = Readonly<Record<EtcdServiceName, ServiceDefinition>>;

/** The same folder serves sources (`src/etcd`) and the build (`dist/src/etcd`). */
function protoFolder(): string {
  const candidates = ['../../proto/', '../../../proto/'].map((relative) =>
    fileURLToPath(new URL(relative, import.meta.url)),
  );
  return candidates.find((folder) => existsSync(folder)) ?? candidates.join(' or ');
}

async function load(): Promise<EtcdServices> {
  const definition = await loadProto('etcd.proto', {
    includeDirs: [protoFolder()],
    keepCase: false,
    // lease ids and cluster ids use all 64 bits
    longs: String,
    enums: String,
    defaults: true,
    arrays: true,
    objects: true,
  });
  const root = loadPackageDefinition(definition)['etcdserverpb'] as GrpcObject;
  const service = (name: EtcdServiceName): ServiceDefinition =>
    (root[name] as ServiceClientConstructor).service;
  return {
    KV: service('KV'),
    Watch: service('Watch'),
    Lease: service('Lease'),
    Auth: service('Auth'),
    Maintenance: service('Maintenance'),
  };
}

let services: Promise<EtcdServices> | null = null;

/** Etcd's services from `proto/etcd.proto`, loaded once per process. */
export function loadEtcdServices(): Promise<EtcdServices> {
  services ??= load();
  return services;
}
