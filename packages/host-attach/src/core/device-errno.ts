import { errno, NbdError } from 'nbd-client-js';
import { linuxErrno } from './fuse-numbers.ts';

const ofReply = new Map<number, number>([
  [errno.EPERM, linuxErrno.EPERM],
  [errno.ENOMEM, linuxErrno.ENOMEM],
  [errno.EINVAL, linuxErrno.EINVAL],
  [errno.ENOSPC, linuxErrno.ENOSPC],
  [errno.ENOTSUP, linuxErrno.EOPNOTSUPP],
]);

/** What the kernel is told of a request of the volume that failed. What is not known is EIO. */
export function deviceErrno(error: unknown): number {
  if (!(error instanceof NbdError)) return linuxErrno.EIO;
  if (error.code === 'IO') return ofReply.get(error.errno) ?? linuxErrno.EIO;
  return error.code === 'INVALID_ARGUMENT' ? linuxErrno.EINVAL : linuxErrno.EIO;
}

/** Whether after this error every request fails: the client has ended for good. */
export function endsVolume(error: unknown): boolean {
  return (
    error instanceof NbdError && ['DISCONNECTED', 'REFUSED', 'PROTOCOL', 'TLS'].includes(error.code)
  );
}
