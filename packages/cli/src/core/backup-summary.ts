import type { BackupHead } from '@stor/protocol';
import { formatAge } from './duration.ts';

/** What a backup of the cluster holds. */
export interface BackupSummary extends BackupHead {
  /** it carries a sum, which is right; older ones have none */
  hasSum: boolean;
  items: number;
  /** by name; `api`: host:port */
  nodes: { name: string; api: string }[];
  volumes: number;
  snapshots: number;
  disks: number;
}

/** `taken`: when it was, as people write it. */
export function describeBackup(
  path: string,
  summary: BackupSummary,
  { taken, nowMs }: { taken: string; nowMs: number },
): string {
  const { clusterName, clusterId, revision, takenAtMs, items, volumes, snapshots } = summary;
  return [
    `${path}: whole${summary.hasSum ? ', SHA-256 right' : ' (written without a checksum)'}`,
    `  cluster   ${clusterName} (${clusterId})`,
    `  taken     ${taken}, ${formatAge(nowMs - takenAtMs)} ago, at revision ${revision}`,
    `  records   ${items}: ${volumes} volumes, ${snapshots} snapshots, ${summary.disks} disks`,
    `  nodes     ${summary.nodes.map(({ name, api }) => `${name} (${api})`).join(', ') || 'none'}`,
    '',
  ].join('\n');
}

/** What an operator does, in order. */
export function restoreSteps(path: string, { nodes, clusterName }: BackupSummary): string[] {
  const [first = { name: 'NODE', api: 'HOST:17110' }, ...others] = nodes;
  const start = (name: string): string => `stor-agent --data-dir DIR --name ${name} …`;
  return [
    `To make the control plane of ${clusterName} anew (docs/operating/cluster.md, "Loss of the majority"):`,
    '1. If a majority of voters can be started, start it instead: that loses nothing. If one voter is',
    '   left, --force-new-cluster on it is newer than a backup.',
    '2. Stop all agents.',
    `3. On ${first.name}, with the file there, once:`,
    `     ${start(first.name)} --restore ${path}`,
    '4. Make a token of the new control plane for the others:',
    `     storctl --endpoints ${first.api} token create --uses ${Math.max(others.length, 1)}`,
    '5. On every other node, once:',
    ...(others.length === 0 ? ['     (there is none)'] : []),
    ...others.map(
      ({ name }) => `     ${start(name)} --join ${first.api} --token TOKEN --discard-store`,
    ),
    '6. Look at "storctl cluster status" and "storctl volume ls" before clients come.',
  ];
}
