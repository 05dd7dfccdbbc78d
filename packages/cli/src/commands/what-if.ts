import type { Command } from 'commander';
import { StorError, formatByteSize } from '@stor/protocol';
import type { LossSimulation, UpgradePlan } from '@stor/protocol';
import type { RunAction } from '../command-context.ts';
import { formatEta, formatRate } from '../core/rebuild-text.ts';
import { renderTable, type Column } from '../core/table.ts';
import { countOf } from '../node-plan-views.ts';

export function addSimulateCommand(program: Command, run: RunAction): void {
  program
    .command('simulate')
    .requiredOption(
      '--down <list>',
      'what is lost: node=NAME, disk=DISK, LABEL=VALUE of nodes; several with commas',
    )
    .description('say what the loss of nodes and disks would mean, and change nothing')
    .addHelpText(
      'after',
      `
Everything named is taken as lost for ever, at once, beside what is down already.

read-write: served, with all copies. degraded: served, with fewer. suspended: I/O is held, or fails, by the
volume's policy. unavailable: the copies that are left are down. lost: no in-sync copy is left.

Examples:
  storctl simulate --down node=n3
  storctl simulate --down zone=b,disk=n1:/srv/d1 -o json`,
    )
    .action(async (options: { down: string }, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const down = options.down.split(',').map((word) => word.trim());
        const simulation = await api.simulateLoss({ down }, call);
        print.answer({ ...simulation }, simulationText(simulation));
      }),
    );
}

export function addUpgradeCommands(program: Command, run: RunAction): void {
  const upgrade = program.command('upgrade').description('restart agents with another version');
  upgrade
    .command('plan')
    .option('-y, --yes', 'exit with 0 although a node must not be restarted now')
    .description('show versions, in which order to restart the agents, and what is in the way')
    .addHelpText(
      'after',
      `
Exits with 11 when some node must not be restarted at this moment, because it holds the only in-sync copy of
a volume, or because the control plane would lose its quorum. Look again before each restart.

Examples:
  storctl upgrade plan`,
    )
    .action(async (options: { yes?: true }, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const plan = await api.planUpgrade({}, call);
        print.answer({ ...plan }, upgradeText(plan));
        if (plan.safe || options.yes === true) return;
        const more = plan.reasons.length > 1 ? ` (and ${plan.reasons.length - 1} more)` : '';
        throw new StorError(
          'UNSAFE_PLAN',
          `an upgrade is not safe now: ${plan.reasons[0] ?? ''}${more}`,
        );
      }),
    );
}

const tableForm = { wide: false, headers: true };

const lossColumns: Column<LossSimulation['volumes'][number]>[] = [
  { title: 'VOLUME', cell: ({ volume }) => volume },
  { title: 'BECOMES', cell: ({ becomes }) => becomes },
  { title: 'IN SYNC', cell: ({ inSync, wanted }) => `${inSync}/${wanted}` },
  { title: 'WHY', cell: ({ text }) => text },
];

function simulationText(simulation: LossSimulation): string {
  const { nodes, disks, counts, volumes, recovery, raft } = simulation;
  const lost = [
    nodes.length === 0 ? '' : `${nodes.length === 1 ? 'node' : 'nodes'} ${nodes.join(', ')}`,
    disks.length === 0 ? '' : `${disks.length === 1 ? 'disk' : 'disks'} ${disks.join(', ')}`,
  ].filter((part) => part !== '');
  const table = volumes.length === 0 ? '' : `${renderTable(volumes, lossColumns, tableForm)}\n`;
  const all = `${counts.readWrite} read-write, ${counts.degraded} degraded, ${counts.suspended} suspended, ${counts.unavailable} unavailable, ${counts.lost} lost`;
  const from = recovery.rate.source === 'measured' ? 'as rebuilds run now' : 'assumed';
  const copied =
    recovery.replicas === 0
      ? 'recovery: nothing is copied'
      : `recovery: ${countOf(recovery.replicas, 'replica')}, about ${formatByteSize(recovery.bytes)} in about ${formatEta(recovery.etaMs)} (at ${formatRate(recovery.rate.bytesPerSecond)}, ${from})`;
  const stuck = recovery.blocked.map(
    ({ volume, replicaId, reason }) =>
      `cannot be rebuilt: replica ${replicaId} of volume ${volume}: ${reason}\n`,
  );
  const votes = raft ? `control plane: ${raftText(raft)}\n` : '';
  return `without ${lost.join(' and ')}:\n${table}volumes: ${all}\n${copied}\n${stuck.join('')}${votes}`;
}

function raftText({
  voters,
  left,
  needed,
  hasQuorum,
}: NonNullable<LossSimulation['raft']>): string {
  const count = `${left} of ${voters} voters up, ${needed} needed`;
  return hasQuorum ? `has a quorum (${count})` : `NO QUORUM (${count})`;
}

const stepColumns: Column<UpgradePlan['steps'][number]>[] = [
  { title: 'NODE', cell: ({ node }) => node },
  { title: 'VERSION', cell: ({ version }) => version },
  { title: 'RAFT', cell: ({ raftRole }) => raftRole },
  { title: 'ATTACHED', cell: ({ attachments }) => String(attachments), right: true },
  { title: 'NOW', cell: ({ reasons }) => (reasons.length === 0 ? 'may be restarted' : 'NOT') },
  { title: 'WHY', cell: ({ reasons }) => reasons.join('; ') },
];

function upgradeText({ versions, steps, safe }: UpgradePlan): string {
  const known = versions.map(({ version, nodes }) => `version ${version}: ${nodes.join(', ')}\n`);
  const how = safe
    ? 'restart one agent at a time, in this order: drain the node, restart its agent, uncordon it, wait until "storctl cluster status --exit-code" exits with 0\n'
    : '';
  return `${known.join('')}\n${renderTable(steps, stepColumns, tableForm)}${how}`;
}
