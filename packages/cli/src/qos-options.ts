import type { Command } from 'commander';
import { parseQos } from './core/qos-text.ts';
import type { QosChange } from './core/qos-text.ts';

/** What commander makes of the flag that `addQosOption` adds. */
export interface QosOptions {
  qos?: string[];
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
  min-iops, min-bps             what is guaranteed beside busy neighbours: 1000, 20MiB, off
none (or -) as a value takes it back; --qos none takes all back.`;

function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}
