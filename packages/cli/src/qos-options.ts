import type { Command } from 'commander';
import { checkPolicyName } from '@stor/protocol';
import { parseQos } from './core/qos-text.ts';
import type { QosChange } from './core/qos-text.ts';

/** What commander makes of the flag that `addQosOption` adds. */
export interface QosOptions {
  qos?: string[];
}

export interface PolicyNameOptions {
  policy?: string;
}

/** The flag of `volume create` and `volume update` that names a policy. */
export function addPolicyNameOption(command: Command): Command {
  return command.option(
    '--policy <policy>',
    'name or id of the policy whose QoS it has, for example gold; none (or -): of no policy',
  );
}

/** '' for none; undefined when nothing was said. Throws INVALID_ARGUMENT. */
export function readPolicyName({ policy }: PolicyNameOptions): string | undefined {
  if (policy === undefined) return undefined;
  if (policy === 'none' || policy === '-') return '';
  checkPolicyName(policy);
  return policy;
}

export function addQosOption(command: Command, what: string): Command {
  return command.option('--qos <limits>', what, collect);
}

/** Null when nothing was said. Throws INVALID_ARGUMENT. */
export function readQos({ qos }: QosOptions): QosChange | null {
  return qos === undefined ? null : parseQos(qos);
}

/** For the help of commands that take `--qos`. */
export const qosHelp = `
--qos is a list of NAME=VALUE, separated by commas:
  iops, read-iops, write-iops   requests per second at most: 5000, 5k, unlimited
  bps, read-bps, write-bps      bytes per second at most: 100MiB, unlimited
  burst                         so many times the limit for so long, saved up while less is used: 2x/30s, off
  weight                        share beside other volumes of a busy node, 1 to 10000: 200 (default: 100)
  min-iops, min-bps             what is guaranteed; replicas lie only where disks can keep it: 1000, 20MiB, off
none (or -) as a value takes it back; --qos none takes all back. What a volume says itself comes before
what its policy says, one by one.`;

function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}
