import type { Command } from 'commander';
import type { Snapshot } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { confirmRemoval } from '../confirm.ts';
import { formatAge, parseDurationMs } from '../core/duration.ts';
import { parseKeepRules, planPrune } from '../core/prune-snapshots.ts';
import type { DatedSnapshot, KeepRules } from '../core/prune-snapshots.ts';
import type { Column } from '../core/table.ts';
import { deleteSnapshots } from '../delete-snapshots.ts';

interface Row extends DatedSnapshot {
  snapshot: Snapshot;
}

/** A row of the plan, as `-o json` shows it. */
interface PlanRow {
  name: string;
  id: string;
  createdAtMs: number;
  keep: boolean;
  /** the rules that keep it */
  rules: string[];
}

export function addPruneCommand(snapshot: Command, run: RunAction): void {
  snapshot
    .command('prune')
    .argument('<volume>', 'name or id')
    .requiredOption('--keep <rules>', 'what is kept, for example last=3,daily=7,weekly=4')
    .option('--plan', 'show what would be kept and removed, and do nothing')
    .option('-y, --yes', 'do not ask')
    .description('delete the snapshots of a volume that no rule keeps')
    .addHelpText(
      'after',
      `
Rules, separated by commas: last=N keeps the newest N; hourly=N, daily=N, weekly=N, monthly=N and yearly=N
keep the newest one of each of the last N hours (days, ...) that have one, by UTC, weeks from Monday;
within=TIME keeps all that are younger. What any rule keeps stays. Snapshots that are not ready are left
alone.

Examples:
  storctl snapshot prune db --keep last=3,daily=7,weekly=4 --plan
  storctl snapshot prune db --keep within=7d -y`,
    )
    .action(
      async (
        volume: string,
        options: { keep: string; plan?: true; yes?: true },
        command: Command,
      ) => {
        const rules = parseKeepRules(options.keep, parseDurationMs);
        await run(command.optsWithGlobals(), (context) => prune(context, volume, rules, options), {
          longRunning: options.yes !== true && options.plan !== true,
        });
      },
    );
}

async function prune(
  context: CommandContext,
  volume: string,
  rules: KeepRules,
  options: { plan?: true; yes?: true },
): Promise<void> {
  const { api, print, call, nowMs } = context;
  const { snapshots } = await api.listSnapshots({ volume }, call);
  const ready = snapshots
    .filter(({ status }) => status.state === 'ready')
    .map((snapshot): Row => {
      const { id, createdAtMs } = snapshot.metadata;
      return { id, createdAtMs, snapshot };
    });
  const { kept, removed } = planPrune(ready, rules, nowMs);
  if (options.plan === true) {
    const plan = [
      ...kept.map(({ snapshot, rules: why }) => planRow(snapshot, why)),
      ...removed.map((row) => planRow(row, [])),
    ].sort((a, b) => b.createdAtMs - a.createdAtMs || (a.name < b.name ? 1 : -1));
    // ids alone are for whoever removes them
    const rows = print.quiet ? plan.filter(({ keep }) => !keep) : plan;
    print.rows(rows, planColumns(nowMs), ({ id }) => id);
    return;
  }
  if (removed.length === 0) {
    print.facts({ volume, removed: 0, kept: kept.length }, 'no snapshot to remove\n');
    return;
  }
  const names = removed.map(({ snapshot }) => snapshot.metadata.name).join(', ');
  await confirmRemoval(context.io, options.yes === true, {
    what:
      removed.length === 1
        ? `snapshot ${names}`
        : `${removed.length} of ${ready.length} snapshots (${names})`,
    lost: `What only ${removed.length === 1 ? 'it holds' : 'they hold'} is lost.`,
  });
  await deleteSnapshots(
    context,
    removed.map(({ snapshot }) => snapshot),
  );
}

function planRow({ snapshot }: Row, rules: string[]): PlanRow {
  const { name, id, createdAtMs } = snapshot.metadata;
  return { name, id, createdAtMs, keep: rules.length > 0, rules };
}

function planColumns(nowMs: number): Column<PlanRow>[] {
  return [
    { title: 'NAME', cell: ({ name }) => name },
    { title: 'AGE', cell: ({ createdAtMs }) => formatAge(nowMs - createdAtMs) },
    { title: 'PLAN', cell: ({ keep }) => (keep ? 'keep' : 'remove') },
    { title: 'KEPT BY', cell: ({ rules }) => rules.join(',') },
  ];
}
