export * from './block-hash.ts';
export * from './buffer-pool.ts';
export * from './clock.ts';
export * from './crc32.ts';
export * from './directory-lock.ts';
export * from './durable-files.ts';
export * from './files.ts';
export * from './io-flusher.ts';
export * from './kept-views.ts';
export * from './logger.ts';
export * from './metrics.ts';
export * from './netlink-nbd.ts';
export * from './nonblocking-read.ts';
export * from './random.ts';
export * from './receive-buffer.ts';
export { releasePages } from './release-pages.ts';
export * from './shared-bytes.ts';
export * from './socket-pair.ts';
export * from './sockets.ts';
export * from './thread-read-bytes.ts';
export * from './thread-queued-ms.ts';
export {
  tlsServer,
  type TlsClient,
  type TlsIdentity,
  type TlsServer,
  type TlsServerCredentials,
  type TlsSession,
} from './tls.ts';
export * from './yaml.ts';
