import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { readBackupText, StorError, type ClusterStatus } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { describeBackup, restoreSteps, type BackupSummary } from '../core/backup-summary.ts';

/** Without a control plane nodes answer soon or not at all (ms). */
const glanceMs = 3_000;

export function addRestoreCommand(cluster: Command, run: RunAction): void {
  cluster
    .command('restore')
    .argument('<file>', 'written by "storctl cluster backup"')
    .option('--check', 'only verify the file and tell what is in it; asks no node')
    .description('verify a backup, and say how to make the control plane anew from it')
    .addHelpText(
      'after',
      `
The control plane is made anew by the agents, on hosts where nothing else runs it: this command changes
nothing. It verifies the file and prints what to start on which node. It is refused while the cluster
has a quorum: a restore forgets everything since the backup.

Examples:
  storctl cluster restore cluster.backup
  storctl cluster restore cluster.backup --check`,
    )
    .action(async (file: string, options: { check?: true }, command: Command) =>
      run(command.optsWithGlobals(), async (context) => {
        const { io, print, nowMs } = context;
        const path = resolve(io.cwd, file);
        const summary = readSummary(path);
        const taken = new Date(summary.takenAtMs).toISOString();
        const text = describeBackup(path, summary, { taken, nowMs });
        if (options.check === true) {
          print.facts({ file: path, ...summary }, text);
          return;
        }
        checkGone(await glance(context), summary);
        const steps = restoreSteps(path, summary);
        print.facts({ file: path, ...summary, steps }, `${text}\n${steps.join('\n')}\n`);
      }),
    );
}

function readSummary(path: string): BackupSummary {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const { message } = error as Error;
    throw new StorError('INVALID_ARGUMENT', `cannot read the backup ${path}: ${message}`, {
      cause: error,
    });
  }
  const sha256 = (body: string): string => createHash('sha256').update(body).digest('hex');
  const { head, lines, hasSum } = readBackupText(text, sha256);
  const count = (prefix: string): number =>
    lines.filter(({ key }) => key.startsWith(prefix)).length;
  const nodes = lines
    .filter(({ key }) => key.startsWith('/stor/nodes/'))
    .map(({ value }) => {
      const record = JSON.parse(Buffer.from(value, 'base64').toString()) as {
        name: string;
        addresses: { api: string };
      };
      return { name: record.name, api: record.addresses.api };
    })
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  return {
    ...head,
    hasSum,
    items: lines.length,
    nodes,
    volumes: count('/stor/volumes/'),
    snapshots: count('/stor/snapshots/'),
    disks: count('/stor/disks/'),
  };
}

/** Null: no node answers, or none that knows. */
async function glance({ api, call }: CommandContext): Promise<ClusterStatus | null> {
  try {
    return await api.getClusterStatus({}, { ...call, timeoutMs: glanceMs });
  } catch (error) {
    const { code } = StorError.from(error);
    if (code === 'UNAVAILABLE' || code === 'TIMEOUT' || code === 'OUTCOME_UNKNOWN') return null;
    throw error;
  }
}

function checkGone(status: ClusterStatus | null, { clusterId, clusterName }: BackupSummary): void {
  if (status && status.clusterId !== clusterId) {
    throw new StorError(
      'FOREIGN_DATA',
      `the backup is of cluster ${clusterName} (${clusterId}), and the nodes that answer are of ${status.name} (${status.clusterId}): give --endpoints of the right ones`,
    );
  }
  if (!status?.quorum) return;
  throw new StorError(
    'FAILED_PRECONDITION',
    `cluster ${status.name} has a quorum, led by ${status.leader?.node ?? 'a node'}: nothing has to be restored, and a restore would forget everything since the backup. If it is wanted nevertheless, stop all agents first`,
  );
}
