import type { Command } from 'commander';
import { StorError, formatByteSize, hasCode } from '@stor/protocol';
import type { DiskInspection } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { countText, evacuationText } from '../disk-views.ts';
import { pause } from '../pause.ts';
import { StatusLine } from '../status-line.ts';

/** Time between two looks at a disk that is being evacuated (ms). */
const lookEveryMs = 1_000;
/** A control plane that does not answer for longer ends the wait (ms): elections take less. */
const maxSilenceMs = 60_000;

interface EvacuateOptions {
  plan?: true;
  yes?: true;
  cancel?: true;
  wait: boolean;
}

export function addEvacuateCommand(disk: Command, run: RunAction): void {
  disk
    .command('evacuate')
    .argument('<disk>', 'id, NODE:PATH, or a path that only one node has')
    .option('--plan', 'only show where its replicas would go')
    .option(
      '-y, --yes',
      'also when some replicas can go nowhere now: they stay until there is room',
    )
    .option('--cancel', 'let it take replicas again; what has moved stays where it is')
    .option('--no-wait', 'return at once instead of when the disk is empty')
    .description('move every replica of a disk to other disks')
    .addHelpText(
      'after',
      `
Each replica is filled elsewhere before the one on the disk leaves: volumes are served meanwhile and
keep their number of replicas. The disk takes no new ones. It is refused when some have no place.

Examples:
  storctl disk evacuate n1:/mnt/nvme0 --plan
  storctl disk evacuate n1:/mnt/nvme0`,
    )
    .action(async (name: string, options: EvacuateOptions, command: Command) =>
      run(command.optsWithGlobals(), (context) => evacuate(context, name, options), {
        longRunning: options.wait && options.plan === undefined && options.cancel === undefined,
      }),
    );
}

async function evacuate(
  context: CommandContext,
  name: string,
  options: EvacuateOptions,
): Promise<void> {
  const { api, print, call } = context;
  if (options.plan === true) {
    const plan = await api.evacuateDisk({ disk: name, plan: true }, call);
    print.answer({ ...plan }, evacuationText(plan));
    return;
  }
  const cancel = options.cancel ?? false;
  const force = options.yes ?? false;
  const plan = await api.evacuateDisk({ disk: name, cancel, force }, call);
  const { disk } = plan;
  if (cancel) {
    print.changed(disk, `disk ${disk.metadata.name} takes replicas again`);
    return;
  }
  if (!options.wait || print.forPeople) {
    print.changed(
      disk,
      `disk ${disk.metadata.name} is being evacuated: ${countText(disk.status.replicas)}, about ${formatByteSize(plan.bytes)} to copy`,
    );
  }
  if (!options.wait) return;
  const done = await waitUntilEmpty(context, disk.metadata.id, disk.metadata.name);
  print.changed(
    done.disk,
    `disk ${disk.metadata.name} is empty\nnext: "storctl disk rm ${disk.metadata.id}" takes it out`,
  );
}

async function waitUntilEmpty(
  context: CommandContext,
  id: string,
  name: string,
): Promise<DiskInspection> {
  const { api, io, print, call, clock, signal } = context;
  context.goesOn(
    `the evacuation goes on by itself: "storctl disk inspect ${id}" shows how far it is`,
  );
  const line = new StatusLine(io, print.quiet);
  let answeredMs = clock.monotonicMs();
  try {
    for (;;) {
      try {
        const seen = await api.inspectDisk({ disk: id }, call);
        answeredMs = clock.monotonicMs();
        if (seen.replicas.length === 0) return seen;
        if (!seen.disk.spec.evacuate && seen.disk.status.state === 'online') {
          throw new StorError('ABORTED', `the evacuation of disk ${name} was cancelled`);
        }
        line.show(...progressOf(seen));
      } catch (error) {
        if (!hasCode(error, 'UNAVAILABLE', 'TIMEOUT') || signal.aborted) throw error;
        if (clock.monotonicMs() - answeredMs > maxSilenceMs) throw error;
        line.show(`waiting: ${error.message}`, 'unavailable');
      }
      await pause(clock, lookEveryMs, signal);
    }
  } finally {
    line.clear();
  }
}

/** The line, and what of it is worth a new one in a log. */
function progressOf({ replicas, next }: DiskInspection): [string, string] {
  const volumes = [...new Set(replicas.map(({ volume }) => volume))];
  const shown = volumes.slice(0, 3).join(', ');
  const more = volumes.length > 3 ? ', ...' : '';
  const blocked = next.filter((text) => text.includes('can go nowhere'));
  const text = `waiting for ${countText(replicas.length)} to move (${shown}${more})`;
  const why = blocked[0] === undefined ? text : `${text}; ${blocked[0]}`;
  return [why, why];
}
