import { InvalidArgumentError, Option, type Command } from 'commander';
import {
  maxIoTimeoutMs,
  maxReplacementWaitMs,
  maxReplicas,
  parseFailureMode,
} from '@stor/protocol';
import type { FailureMode, VolumePolicy } from '@stor/protocol';
import { parsePolicyTimeMs } from './core/duration.ts';

/** What commander makes of the flags that `addPolicyOptions` adds. */
export interface PolicyOptions {
  failureMode?: FailureMode;
  onLoss?: VolumePolicy['onLoss'];
  ioTimeout?: string;
  replacementWait?: string;
  unflushedLoss?: VolumePolicy['unflushedLoss'];
  shared?: boolean;
}

/** The flags of `volume create` and `volume update` that say how the volume bears losses. */
export function addPolicyOptions(command: Command): Command {
  return command
    .option(
      '--failure-mode <mode>',
      'replicas that must be in sync for writes: hard (all), soft (all but one), threshold=N, alwayson (one)',
      parseMode,
    )
    .addOption(
      new Option(
        '--on-loss <what>',
        'what happens to I/O while fewer are in sync: it is held, or answered with errors',
      ).choices(['suspend', 'error']),
    )
    .option('--io-timeout <time>', 'held I/O fails after this time, for example 30s (0: never)')
    .option(
      '--replacement-wait <time>',
      'a replica that is away for longer is replaced on another node, for example 10m',
    )
    .addOption(
      new Option(
        '--unflushed-loss <what>',
        'when no replica that can be reached kept its memory: wait for the others, or accept the loss of writes that were never flushed',
      ).choices(['wait', 'accept']),
    );
}

/** Only what was given. Throws INVALID_ARGUMENT. */
export function readPolicy(options: PolicyOptions): Partial<VolumePolicy> {
  const { failureMode, onLoss, ioTimeout, replacementWait, unflushedLoss, shared } = options;
  return {
    ...(failureMode === undefined ? {} : { failureMode }),
    ...(onLoss === undefined ? {} : { onLoss }),
    ...(ioTimeout === undefined
      ? {}
      : { ioTimeoutMs: parsePolicyTimeMs('--io-timeout', ioTimeout, maxIoTimeoutMs) }),
    ...(replacementWait === undefined
      ? {}
      : {
          replacementWaitMs: parsePolicyTimeMs(
            '--replacement-wait',
            replacementWait,
            maxReplacementWaitMs,
          ),
        }),
    ...(unflushedLoss === undefined ? {} : { unflushedLoss }),
    ...(shared === undefined ? {} : { shared }),
  };
}

export function parseReplicas(text: string): number {
  const replicas = /^[0-9]+$/.test(text) ? Number(text) : NaN;
  if (replicas >= 1 && replicas <= maxReplicas) return replicas;
  throw new InvalidArgumentError(`A volume has 1 to ${maxReplicas} replicas.`);
}

function parseMode(text: string): FailureMode {
  const mode = parseFailureMode(text);
  if (mode !== null) return mode;
  throw new InvalidArgumentError(
    `Use hard, soft, alwayson or threshold=N with N from 1 to ${maxReplicas}.`,
  );
}
