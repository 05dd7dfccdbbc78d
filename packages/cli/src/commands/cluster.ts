import type { Command } from 'commander';
import type { RunAction } from '../command-context.ts';
import { ExitStatus } from '../exit-status.ts';
import { addMigrateStoreCommand } from './cluster-migrate-store.ts';
import { clusterIsHealthy, clusterSheet } from '../resource-views.ts';
import { addBackupCommand } from './cluster-backup.ts';
import { addRestoreCommand } from './cluster-restore.ts';
import { addMemberCommands } from './cluster-members.ts';
import { addQosClassCommands } from './cluster-qos.ts';
import { addRebalanceCommands } from './cluster-rebalance.ts';

/** Exit code of a check that found something (docs/operating/exit-codes.md). */
const checkFailedStatus = 10;

export function addClusterCommands(program: Command, run: RunAction): void {
  const cluster = program.command('cluster').description('the cluster as a whole');
  cluster
    .command('status')
    .description('show quorum, leader, nodes, disks and the health of volumes')
    .option('--exit-code', `exit with ${checkFailedStatus} when anything is not healthy`)
    .addHelpText(
      'after',
      '\nExamples:\n  storctl cluster status\n  storctl cluster status --exit-code -q && echo all is well',
    )
    .action(async (options: { exitCode?: true }, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const status = await api.getClusterStatus({}, call);
        print.facts({ ...status }, clusterSheet(status));
        if (options.exitCode === true && !clusterIsHealthy(status)) {
          throw new ExitStatus(checkFailedStatus);
        }
      }),
    );
  addMemberCommands(cluster, run);
  addMigrateStoreCommand(cluster, run);
  addBackupCommand(cluster, run);
  addRestoreCommand(cluster, run);
  addRebalanceCommands(cluster, run);
  addQosClassCommands(cluster, run);
}
