export * from './core/client-handshake.ts';
export * from './core/client-identity.ts';
export * from './core/constants.ts';
export * from './core/coverage.ts';
export * from './core/handshake-codec.ts';
export * from './core/psk-file.ts';
export * from './core/request-order.ts';
export * from './core/reply-decoder.ts';
export * from './core/transmission-codec.ts';
export * from './core/wire-integers.ts';
export * from './nbd-client.ts';
export type { NbdClock } from './nbd-clock.ts';
export type { NbdNetwork, NbdStream, TlsClientStart } from './nbd-network.ts';
export * from './nbd-error.ts';
export type {
  BlockStatusExtent,
  BlockStatusOptions,
  BlockStatusesOptions,
  NbdConnectOptions,
  ReadOptions,
  RequestOptions,
  WriteOptions,
  WriteZeroesOptions,
} from './nbd-options.ts';
export * from './nbd-uri.ts';
export * from './reconnecting-nbd-client.ts';
export type { ExportInfo } from './server-questions.ts';
export type { NbdTlsOptions } from './tls-options.ts';
export { probeServer } from './server-probe.ts';
export { defaultReconnectLimits } from './reconnect-limits.ts';
export type { ReconnectLimits } from './reconnect-limits.ts';
export type { StatusExtent } from './outstanding-requests.ts';
