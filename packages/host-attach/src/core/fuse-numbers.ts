/** Numbers of the FUSE protocol (linux/fuse.h, version 7), under the names used there. */

export const fuseMajor = 7;
/** of what is spoken here; MAX_PAGES came with 28, 31 is the last that changes nothing used here */
export const fuseMinor = 31;
/** the first with an INIT answer of 64 bytes */
export const oldestMinor = 23;

export const fuseOpcode = {
  lookup: 1,
  forget: 2,
  getattr: 3,
  open: 14,
  read: 15,
  write: 16,
  statfs: 17,
  release: 18,
  fsync: 20,
  flush: 25,
  init: 26,
  opendir: 27,
  readdir: 28,
  releasedir: 29,
  interrupt: 36,
  destroy: 38,
  batchForget: 42,
  fallocate: 43,
} as const;

export const initFlag = {
  asyncRead: 1 << 0,
  bigWrites: 1 << 5,
  asyncDio: 1 << 15,
  writebackCache: 1 << 16,
  parallelDirops: 1 << 18,
  maxPages: 1 << 22,
} as const;

export const openFlag = { directIo: 1 << 0, parallelDirectWrites: 1 << 6 } as const;

/** linux/falloc.h */
export const fallocateMode = { keepSize: 1, punchHole: 2, zeroRange: 16 } as const;

export const rootNode = 1;

/** bytes */
export const requestHeaderBytes = 40;
export const replyHeaderBytes = 16;
export const writeBodyBytes = 40;
export const pageBytes = 4096;

/** Error numbers of Linux on all the machines that Node runs on. */
export const linuxErrno = {
  EPERM: 1,
  ENOENT: 2,
  EIO: 5,
  ENOMEM: 12,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENOSPC: 28,
  EROFS: 30,
  ENOSYS: 38,
  EPROTO: 71,
  EOPNOTSUPP: 95,
} as const;
