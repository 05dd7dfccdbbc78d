import { readFileSync } from 'node:fs';
import { credentials, type ChannelCredentials } from '@grpc/grpc-js';
import { StorError } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import { parseEtcdAddress } from '../core/etcd/etcd-address.ts';
import { longLivedController } from '../resources/long-lived.ts';
import { EtcdCalls } from './etcd-calls.ts';
import { EtcdEndpoint } from './etcd-endpoint.ts';
import { EtcdKeys, type KeyStore } from './etcd-keys.ts';
import { loadEtcdServices } from './etcd-services.ts';

/** Paths of PEM files. `cert` and `key` go together. */
export interface EtcdTls {
  ca: string;
  cert?: string | undefined;
  key?: string | undefined;
}

/** INVALID_ARGUMENT (address, certificate files that cannot be read). Connects to nobody. */
export async function openEtcdEndpoints(
  address: string,
  tls: EtcdTls | undefined,
): Promise<{ endpoints: EtcdEndpoint[]; prefix: string }> {
  const { endpoints, prefix } = parseEtcdAddress(address);
  const channelCredentials = credentialsOf(tls);
  const services = await loadEtcdServices();
  return {
    endpoints: endpoints.map((each) => new EtcdEndpoint(each, services, channelCredentials)),
    prefix,
  };
}

/** The keys of a cluster store in etcd, for who takes no part in it. Errors as above. */
export async function openEtcdKeys(options: {
  address: string;
  tls?: EtcdTls | undefined;
  clock: Clock;
  random: Random;
  logger: Logger;
}): Promise<KeyStore & { close(): void }> {
  const { endpoints, prefix } = await openEtcdEndpoints(options.address, options.tls);
  const closed = longLivedController();
  const calls = new EtcdCalls(endpoints, options.clock, 0);
  const keys = new EtcdKeys({
    ...options,
    calls,
    keyPrefix: keysPrefix(prefix),
    closed: closed.signal,
  });
  return Object.assign(keys, {
    close: (): void => {
      closed.abort();
      calls.close();
    },
  });
}

/** Where the keys of the store's users lie, below the prefix of the cluster. */
export const keysPrefix = (prefix: string): string => `${prefix}kv/`;

function credentialsOf(tls: EtcdTls | undefined): ChannelCredentials {
  if (!tls) return credentials.createInsecure();
  const { ca, cert, key } = tls;
  if ((cert === undefined) !== (key === undefined)) {
    throw new StorError(
      'INVALID_ARGUMENT',
      'a client certificate of etcd needs both its files: cert and key',
    );
  }
  return credentials.createSsl(
    readPem(ca),
    key === undefined ? null : readPem(key),
    cert === undefined ? null : readPem(cert),
  );
}

function readPem(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    const { message } = cause as Error;
    throw new StorError('INVALID_ARGUMENT', `the certificate file ${path}: ${message}`, { cause });
  }
}
