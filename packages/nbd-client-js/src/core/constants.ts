/** Numbers of the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md), under the names used there. */

export const defaultPort = 10809;

/** First eight bytes of a server: `NBDMAGIC`. */
export const greetingMagic = 0x4e42444d41474943n;
/** `IHAVEOPT`: second magic of a newstyle greeting, and in front of each option. */
export const optionMagic = 0x49484156454f5054n;
export const optionReplyMagic = 0x0003e889045565a9n;
export const requestMagic = 0x25609513;
export const simpleReplyMagic = 0x67446698;
export const structuredReplyMagic = 0x668e33ef;
/** Of the extension EXTENDED_HEADERS (branch extension-ext-header of the same document). */
export const extendedRequestMagic = 0x21e41c71;
export const extendedReplyMagic = 0x6e8a278c;

/**
 * What the transmission phase is made of, as the handshake settled it. `simple`: 28-byte requests and
 * simple replies; `structured`: replies in chunks; `extended`: both with 64-bit lengths, in 32 bytes.
 */
export type HeaderForm = 'simple' | 'structured' | 'extended';

/** Handshake flags, and the client's flags of the same bits. */
export const handshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const optionType = {
  exportName: 1,
  abort: 2,
  list: 3,
  starttls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;

export const optionReplyType = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errUnsup: 0x80000001,
  errPolicy: 0x80000002,
  errInvalid: 0x80000003,
  errPlatform: 0x80000004,
  errTlsReqd: 0x80000005,
  errUnknown: 0x80000006,
  errShutdown: 0x80000007,
  errBlockSizeReqd: 0x80000008,
  errTooBig: 0x80000009,
  errExtHeaderReqd: 0x8000000a,
} as const;

export const infoType = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

export const transmissionFlag = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  rotational: 1 << 4,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
  sendResize: 1 << 9,
  sendCache: 1 << 10,
  sendFastZero: 1 << 11,
  blockStatusPayload: 1 << 12,
} as const;

export const command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

export const commandFlag = {
  fua: 1 << 0,
  noHole: 1 << 1,
  df: 1 << 2,
  reqOne: 1 << 3,
  fastZero: 1 << 4,
  /** extended headers: the length counts a payload that follows */
  payloadLength: 1 << 5,
} as const;

export const chunkFlag = { done: 1 } as const;

export const chunkType = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  blockStatusExt: 6,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;

/** Every chunk type with this bit is an error. */
export const chunkErrorBit = 0x8000;

/** Error numbers that a reply may carry; they are the protocol's, not the host's. */
export const errno = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;
export type ErrnoName = keyof typeof errno;

const errnoNames = new Map(Object.entries(errno).map(([name, value]) => [value as number, name]));

/** `ENOSPC` for 28; `errno 7` for one that the protocol does not have. */
export function errnoName(value: number): string {
  return errnoNames.get(value) ?? `errno ${value}`;
}

/** The metadata context that the protocol itself defines, and its flags. */
export const allocationContext = 'base:allocation';
export const allocationState = { hole: 1, zero: 2 } as const;

/** Bounds of the protocol (bytes). */
export const maxStringBytes = 4096;
export const defaultMaxPayloadBytes = 32 * 1024 * 1024;
