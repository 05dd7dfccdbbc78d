import { command, commandFlag, errno, type HeaderForm } from 'nbd-client-js';

/** What the answer depends on besides the request itself. */
export interface RequestRules {
  sizeBytes: number;
  /** largest payload of a READ or WRITE (bytes) */
  payloadBytes: number;
  form: HeaderForm;
  /** some metadata context was set */
  hasContexts: boolean;
  /** nothing may be changed through this export */
  readOnly: boolean;
}

/** Flags that each command takes. FUA must be accepted on every command ("Command flags"). */
const allowedFlags: readonly number[] = (() => {
  const allowed: number[] = [];
  allowed[command.read] = commandFlag.fua | commandFlag.df;
  allowed[command.write] = commandFlag.fua | commandFlag.payloadLength;
  allowed[command.flush] = commandFlag.fua;
  allowed[command.trim] = commandFlag.fua;
  allowed[command.cache] = commandFlag.fua;
  allowed[command.writeZeroes] = commandFlag.fua | commandFlag.noHole | commandFlag.fastZero;
  allowed[command.blockStatus] = commandFlag.fua | commandFlag.reqOne | commandFlag.payloadLength;
  return allowed;
})();

/**
 * The error number for a request that must not reach the device, 0 for a good one. DISC is not asked
 * about: it has no reply. `offset` and `length` may be above 2^53, rounded; `length` is that of the
 * payload for a WRITE, else that of the effect.
 *
 * From the specification ("Error values", "Request types"): unknown commands and flags EINVAL; what
 * changes a read-only export EPERM; beyond the end, ENOSPC for what writes data and EINVAL for everything else.
 */
export function checkRequest(
  type: number,
  flags: number,
  offset: number,
  length: number,
  rules: RequestRules,
): number {
  const allowed = allowedFlags[type];
  if (allowed === undefined || (flags & ~allowed) !== 0) return errno.EINVAL;
  // a payload is counted by this flag alone when headers are extended, and by the command when not
  const isCounted = (flags & commandFlag.payloadLength) !== 0;
  if (isCounted && rules.form !== 'extended') return errno.EINVAL;
  if (type === command.write && !isCounted && rules.form === 'extended') return errno.EINVAL;
  if (rules.readOnly && changes(type)) return errno.EPERM;
  switch (type) {
    case command.read:
      // DF is exposed only by structured replies
      if ((flags & commandFlag.df) !== 0 && rules.form === 'simple') return errno.EINVAL;
      if (length > rules.payloadBytes) return errno.EINVAL;
      break;
    case command.write:
      if (length > rules.payloadBytes) return errno.EINVAL;
      break;
    case command.flush:
      return offset === 0 && length === 0 ? 0 : errno.EINVAL;
    case command.blockStatus:
      // an answer must have a descriptor, and a descriptor a length
      if (!rules.hasContexts || length === 0) return errno.EINVAL;
      break;
    default:
      break;
  }
  if (offset + length > rules.sizeBytes) {
    return type === command.write || type === command.writeZeroes ? errno.ENOSPC : errno.EINVAL;
  }
  return 0;
}

function changes(type: number): boolean {
  return type === command.write || type === command.writeZeroes || type === command.trim;
}
