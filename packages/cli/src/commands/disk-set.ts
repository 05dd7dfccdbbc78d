import type { Command } from 'commander';
import { checkQos, StorError } from '@stor/protocol';
import type { RunAction } from '../command-context.ts';
import { parseQos } from '../core/qos-text.ts';
import { capacityText } from '../disk-views.ts';

interface SetOptions {
  iopsCapacity?: string;
  bpsCapacity?: string;
}

export function addSetCommand(disk: Command, run: RunAction): void {
  disk
    .command('set')
    .argument('<disk>', 'id, NODE:PATH, or a path that only one node has')
    .option(
      '--iops-capacity <count>',
      'requests per second that may be guaranteed to volumes on it, for example 20k; none: no bound',
    )
    .option(
      '--bps-capacity <size>',
      'bytes per second that may be guaranteed to volumes on it, for example 500MiB; none: no bound',
    )
    .description('say what may be guaranteed on a disk')
    .addHelpText(
      'after',
      `
A volume with min-iops or min-bps gets its replicas only on disks that can keep that for all volumes with
replicas there. A disk has no bound until one is set. What is guaranteed already stays so:
"storctl placement violations" shows where it is too much.

Examples:
  storctl disk set n1:/mnt/nvme0 --iops-capacity 50k --bps-capacity 1GiB
  storctl disk set n1:/mnt/nvme0 --iops-capacity none`,
    )
    .action(async (name: string, options: SetOptions, command: Command) => {
      const change = {
        ...(options.iopsCapacity === undefined
          ? {}
          : { iopsCapacity: parse('min-iops', '--iops-capacity', options.iopsCapacity) }),
        ...(options.bpsCapacity === undefined
          ? {}
          : { bpsCapacity: parse('min-bps', '--bps-capacity', options.bpsCapacity) }),
      };
      if (Object.keys(change).length === 0) {
        throw new StorError(
          'INVALID_ARGUMENT',
          'nothing is to be changed: give --iops-capacity or --bps-capacity',
        );
      }
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const changed = await api.setDisk({ disk: name, ...change }, call);
        print.changed(
          changed,
          `disk ${changed.metadata.name}: ${capacityText(changed) || 'no bound on what is guaranteed'}`,
        );
      });
    });
}

/** 0: no bound. As for guarantees of volumes. */
function parse(field: 'min-iops' | 'min-bps', flag: string, text: string): number {
  try {
    const { set } = parseQos([`${field}=${text}`]);
    checkQos(set);
    return set.minIops ?? set.minBps ?? 0;
  } catch (error) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `${flag} ${JSON.stringify(text)} is not valid: write for example ${field === 'min-iops' ? '20000 or 20k' : '500MiB'}, or none`,
      { cause: error },
    );
  }
}
