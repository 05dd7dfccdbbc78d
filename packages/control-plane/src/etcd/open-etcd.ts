import { readFileSync } from 'node:fs';
import { credentials } from '@grpc/grpc-js';
import { StorError } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import { parseEtcdAddress } from '../core/etcd/etcd-address.ts';
import { longLivedController } from '../resources/long-lived.ts';
import { EtcdCalls } from './etcd-calls.ts';
import { EtcdEndpoint } from './etcd-endpoint.ts';
import { EtcdKeys, type KeyStore } from './etcd-keys.ts';
import { etcdLogin } from './etcd-login.ts';
import { loadEtcdServices } from './etcd-services.ts';
import { explainConnection, type ConnectionFiles } from './explain-connection.ts';

/**
 * Paths of the files by which a node gets into an etcd: PEM files with `ca`, for TLS (`cert` and `key`
 * go together), and the password of the user that the address names.
 */
export interface EtcdFiles {
  ca?: string | undefined;
  cert?: string | undefined;
  key?: string | undefined;
  passwordFile?: string | undefined;
}

/** INVALID_ARGUMENT (address, certificate files that cannot be read). Connects to nobody. */
export async function openEtcdEndpoints(
  address: string,
  tls: EtcdFiles | undefined,
): Promise<{ endpoints: EtcdEndpoint[]; prefix: string }> {
  const { endpoints, prefix, user } = parseEtcdAddress(address);
  const files = connectionFiles(tls);
  const channelCredentials = files
    ? credentials.createSsl(files.ca.pem, files.key, files.cert)
    : credentials.createInsecure();
  const login = etcdLogin(user, tls?.passwordFile);
  const services = await loadEtcdServices();
  return {
    endpoints: endpoints.map((each) => {
      const explain = (): Promise<string | null> => explainConnection(each, files);
      return new EtcdEndpoint(each, services, channelCredentials, { login, explain });
    }),
    prefix,
  };
}

/** The keys of a cluster store in etcd, for who takes no part in it. Errors as above. */
export async function openEtcdKeys(options: {
  address: string;
  tls?: EtcdFiles | undefined;
  clock: Clock;
  random: Random;
  logger: Logger;
}): Promise<KeyStore & { close(): void }> {
  const { endpoints, prefix } = await openEtcdEndpoints(options.address, options.tls);
  const closed = longLivedController();
  const calls = new EtcdCalls(endpoints, options, 0);
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

function connectionFiles(tls: EtcdFiles | undefined): ConnectionFiles | null {
  const { ca, cert, key } = tls ?? {};
  if ((cert === undefined) !== (key === undefined)) {
    throw new StorError(
      'INVALID_ARGUMENT',
      'a client certificate of etcd needs both its files: cert and key',
    );
  }
  if (ca === undefined) {
    if (cert === undefined) return null;
    throw new StorError(
      'INVALID_ARGUMENT',
      'a client certificate of etcd needs the authority of its servers, too: ca',
    );
  }
  return {
    ca: { path: ca, pem: readPem(ca) },
    cert: cert === undefined ? null : readPem(cert),
    key: key === undefined ? null : readPem(key),
  };
}

function readPem(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    const { message } = cause as Error;
    throw new StorError('INVALID_ARGUMENT', `the certificate file ${path}: ${message}`, { cause });
  }
}
