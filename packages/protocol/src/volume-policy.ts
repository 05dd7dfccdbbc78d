import { StorError } from './errors.ts';
import { maxIoTimeoutMs, maxReplacementWaitMs, maxReplicas, replacementWaitMs } from './limits.ts';
import type { FailureMode, VolumePolicy } from './resources.ts';

/** DESIGN "Failure modes": a volume of one replica has nobody to wait for. */
export function defaultPolicy(replicas: number): VolumePolicy {
  return {
    failureMode: replicas === 1 ? 'alwayson' : 'soft',
    onLoss: 'suspend',
    ioTimeoutMs: 0,
    replacementWaitMs,
    unflushedLoss: 'wait',
    rebuildPaused: false,
    shared: false,
  };
}

/** `hard`, `soft`, `alwayson` or `threshold=N`; null when it is none. */
export function parseFailureMode(text: string): FailureMode | null {
  if (text === 'hard' || text === 'soft' || text === 'alwayson') return text;
  const match = /^threshold=([1-9][0-9]?)$/.exec(text);
  return match && Number(match[1]) <= maxReplicas ? `threshold=${Number(match[1])}` : null;
}

/**
 * How many in-sync members an acknowledgement needs at least. Never less than one, and never more
 * than the volume has replicas: a threshold that is left over from a higher count means all.
 */
export function membersNeeded(mode: FailureMode, replicas: number): number {
  switch (mode) {
    case 'hard':
      return replicas;
    case 'soft':
      return Math.max(1, replicas - 1);
    case 'alwayson':
      return 1;
    default:
      return Math.min(replicas, Math.max(1, Number(mode.slice('threshold='.length)) || 1));
  }
}

/** The policy with changes; INVALID_ARGUMENT says which field is wrong and what it may be. */
export function changePolicy(policy: VolumePolicy, changes: Partial<VolumePolicy>): VolumePolicy {
  const changed = { ...policy };
  for (const [key, value] of Object.entries(changes)) {
    if (value !== undefined) Object.assign(changed, { [key]: value });
  }
  if (parseFailureMode(changed.failureMode) === null) {
    throw invalid(
      `failure mode ${JSON.stringify(changed.failureMode)} is none: use hard, soft, alwayson or threshold=N with N from 1 to ${maxReplicas}`,
    );
  }
  if (changed.onLoss !== 'suspend' && changed.onLoss !== 'error') {
    throw invalid(`on-loss ${JSON.stringify(changed.onLoss)} is none: use suspend or error`);
  }
  if (changed.unflushedLoss !== 'wait' && changed.unflushedLoss !== 'accept') {
    throw invalid(
      `unflushed-loss ${JSON.stringify(changed.unflushedLoss)} is none: use wait or accept`,
    );
  }
  checkMs('io-timeout', changed.ioTimeoutMs, maxIoTimeoutMs);
  checkMs('replacement-wait', changed.replacementWaitMs, maxReplacementWaitMs);
  return changed;
}

function checkMs(what: string, valueMs: number, maxMs: number): void {
  if (Number.isInteger(valueMs) && valueMs >= 0 && valueMs <= maxMs) return;
  throw invalid(`${what} of ${valueMs} ms is out of range: use 0 to ${maxMs / 3_600_000} h`);
}

function invalid(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}
