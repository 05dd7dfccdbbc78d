import { formatByteSize, joinSnapshotName, knownQos } from '@stor/protocol';
import type { ClusterStatus, Node, Volume, VolumePolicy } from '@stor/protocol';
import { formatAge, formatWait } from './core/duration.ts';
import { intentText, intentWords } from './core/node-words.ts';
import { failureModeText } from './core/policy-text.ts';
import { placementLines } from './core/placement-text.ts';
import { effectiveLines, effectiveText, qosText, throttleLines } from './core/qos-text.ts';
import { bySegment, leastReplicas, nodesOf } from './core/segment-view.ts';
import { renderSheet, renderTable, type Column } from './core/table.ts';

/** Characters of a message in a table of volumes. */
const maxMessageLength = 90;

/** What people see of each resource. JSON and YAML show the resource as the API gave it. */

export function nodeColumns(nowMs: number): Column<Node>[] {
  return [
    { title: 'NAME', cell: (node) => node.metadata.name },
    { title: 'STATE', cell: (node) => [node.status.state, ...intentWords(node)].join(',') },
    { title: 'RAFT', cell: (node) => node.status.raftRole },
    { title: 'ROLE', cell: (node) => nodeRole(node) },
    { title: 'API', cell: (node) => node.status.addresses.api },
    { title: 'NBD', cell: (node) => node.status.addresses.nbd.join(',') },
    { title: 'LABELS', cell: (node) => formatLabels(node.metadata.labels) },
    { title: 'AGE', cell: (node) => formatAge(nowMs - node.metadata.createdAtMs) },
    { title: 'ID', cell: (node) => node.metadata.id, wide: true },
    { title: 'HTTP', cell: (node) => node.status.addresses.http, wide: true },
    { title: 'VERSION', cell: (node) => node.status.version, wide: true },
  ];
}

/** A node of an older version does not say it: it has disks. */
function nodeRole({ status }: Node): string {
  return status.computeOnly ? 'compute-only' : 'storage';
}

export function nodeSheet(node: Node): string {
  const { metadata, status } = node;
  return renderSheet([
    ['Name', metadata.name],
    ['ID', metadata.id],
    ['State', status.state],
    ['Wanted', intentText(node, formatTime)],
    ['Raft role', status.raftRole],
    ['Role', nodeRole(node)],
    ['API', status.addresses.api],
    ['HTTP', status.addresses.http],
    ['Replication', status.addresses.peers.join(', ')],
    ['NBD', [...status.addresses.nbd, ...status.addresses.nbdUnix].join(', ')],
    ...(status.addresses.nbdTls ? [['NBD over TLS', status.addresses.nbdTls] as const] : []),
    ['Version', status.version],
    ['Labels', formatLabels(metadata.labels)],
    ['Created', formatTime(metadata.createdAtMs)],
  ]);
}

export function volumeColumns(nowMs: number): Column<Volume>[] {
  return [
    { title: 'NAME', cell: (volume) => volume.metadata.name },
    { title: 'SIZE', cell: (volume) => formatByteSize(volume.spec.sizeBytes), right: true },
    { title: 'USED', cell: usedSpace, right: true },
    { title: 'HEALTH', cell: (volume) => volume.status.health },
    { title: 'IN SYNC', cell: inSyncText },
    { title: 'PRIMARY', cell: (volume) => volume.status.primary?.node ?? '' },
    { title: 'SERVING', cell: (volume) => volume.status.serving },
    { title: 'AGE', cell: (volume) => formatAge(nowMs - volume.metadata.createdAtMs) },
    { title: 'MESSAGE', cell: (volume) => shortened(volume.status.message) },
    { title: 'ID', cell: (volume) => volume.metadata.id, wide: true },
    {
      title: 'NODES',
      cell: (volume) => nodesOf(volume).replaceAll(', ', ','),
      wide: true,
    },
    {
      title: 'POLICY',
      cell: ({ spec }) => `${spec.policy.failureMode},${spec.policy.onLoss}`,
      wide: true,
    },
    { title: 'QOS', cell: effectiveText, wide: true },
    { title: 'QOS POLICY', cell: ({ spec }) => spec.policyName ?? '', wide: true },
    { title: 'NBD URI', cell: (volume) => volume.status.nbdUri, wide: true },
    { title: 'LABELS', cell: (volume) => formatLabels(volume.metadata.labels), wide: true },
  ];
}

/** A row is to stay readable; `inspect` and `explain` say all of it. */
function shortened(message: string): string {
  return message.length <= maxMessageLength
    ? message
    : `${message.slice(0, maxMessageLength - 3)}...`;
}

type Replica = Volume['status']['replicas'][number];

const segmentColumn: Column<Replica> = {
  title: 'SEGMENT',
  cell: (replica) => String(replica.segment),
  right: true,
};

const replicaColumns: Column<Replica>[] = [
  { title: 'REPLICA', cell: (replica) => replica.id },
  { title: 'NODE', cell: (replica) => replica.node },
  { title: 'DISK', cell: (replica) => replica.diskId },
  { title: 'STATE', cell: (replica) => replica.state },
  {
    title: 'LEFT',
    cell: (replica) => (replica.bytesRemaining > 0 ? formatByteSize(replica.bytesRemaining) : ''),
  },
  { title: 'NOTE', cell: replicaNote },
];

const purposeNotes: Readonly<Record<Replica['purpose'], string>> = {
  volume: '',
  replacement: 'added as replacement',
  move: 'added by a move',
  update: 'added by an update',
};

/** Why one is there that is to be filled, when not since the beginning; and whether it is to go. */
/** The hosts that use it as a device; empty when there is none. */
function publicationsText({ status }: Volume): string {
  const texts = status.publications.map(({ node, owner, readOnly, sinceMs }) => {
    const notes = [owner, readOnly ? 'read-only' : '', `since ${formatTime(sinceMs)}`];
    return `${node} (${notes.filter((note) => note !== '').join(', ')})`;
  });
  return texts.join(', ');
}

function replicaNote({ purpose, leaving, state }: Replica): string {
  const isFilled = state === 'creating' || state === 'syncing' || state === 'out-of-sync';
  const notes = [isFilled ? purposeNotes[purpose] : '', leaving ? 'leaving' : ''];
  return notes.filter((note) => note !== '').join(', ');
}

export function volumeSheet(volume: Volume): string {
  const { metadata, spec, status } = volume;
  const primary = status.primary;
  const sheet = renderSheet([
    ['Name', metadata.name],
    ['ID', metadata.id],
    ['Size', formatByteSize(spec.sizeBytes)],
    ['Segments', segmentsText(volume)],
    ['Used', usedSpace(volume) && `${usedSpace(volume)} on each replica`],
    ['Snapshots', snapshotsText(volume)],
    ['Reclaimable', reclaimableText(volume)],
    ['Clone of', originText(volume)],
    ['Health', status.message === '' ? status.health : `${status.health}: ${status.message}`],
    [
      'Primary',
      primary === null
        ? 'none (attached nowhere)'
        : `${primary.node} (${primary.mode}, since ${formatTime(primary.sinceMs)})`,
    ],
    ['Published to', publicationsText(volume)],
    ['Serving', status.serving],
    ['Epoch', `${status.epoch} (set revision ${status.setRevision})`],
    ['NBD URI', status.nbdUri],
    ['Labels', formatLabels(metadata.labels)],
    ['Created', formatTime(metadata.createdAtMs)],
    ['In sync', `${inSyncCount(volume)} of ${spec.replicas} replicas`],
    ['Failure mode', failureModeText(spec.policy.failureMode, spec.replicas)],
    ['On loss', onLossText(spec.policy)],
    ['Replaced after', formatWait(spec.policy.replacementWaitMs)],
    ['Unflushed loss', spec.policy.unflushedLoss],
    ['Rebuild', spec.policy.rebuildPaused ? 'paused' : ''],
    ['Shared', spec.policy.shared ? 'yes' : ''],
    ['Disk tag', spec.diskTag ?? ''],
    ...placementLines(spec.placement ?? {}),
    ['Policy', spec.policyName ?? ''],
    ['QoS wanted', qosText(knownQos(spec.qos))],
    ...effectiveLines(volume),
    ...throttleLines(volume),
  ]);
  const columns =
    bySegment(volume).length > 1 ? [segmentColumn, ...replicaColumns] : replicaColumns;
  const replicas = renderTable(status.replicas, columns, { wide: false, headers: true });
  return `${sheet}\n${replicas}`;
}

/** Empty for a volume of one. */
function segmentsText(volume: Volume): string {
  const count = bySegment(volume).length;
  if (count === 1) return '';
  return `${count} of ${formatByteSize(volume.spec.segmentBytes ?? 0)}, each placed on its own`;
}

function onLossText({ onLoss, ioTimeoutMs }: VolumePolicy): string {
  const limit =
    ioTimeoutMs === 0 ? 'for as long as it takes' : `for up to ${formatWait(ioTimeoutMs)}`;
  return onLoss === 'error'
    ? `error: I/O gets errors (held ${limit} while the in-sync set changes)`
    : `suspend: I/O is held ${limit}`;
}

export function clusterSheet(status: ClusterStatus): string {
  const { nodes, disks, volumes } = status;
  const leader = status.leader === null ? 'none' : `${status.leader.node} (term ${status.term})`;
  return renderSheet([
    ['Cluster', `${status.name} (${status.clusterId})`],
    ['Version', status.version],
    ['Control plane', status.quorum ? `has a quorum, leader ${leader}` : 'NO QUORUM'],
    ['Nodes', `${nodes.up} of ${nodes.total} up`],
    [
      'Disks',
      `${disks.online} of ${disks.total} online, ${formatByteSize(disks.usedBytes)} of ${formatByteSize(disks.capacityBytes)} used`,
    ],
    [
      'Volumes',
      `${volumes.total}: ${volumes.healthy} healthy, ${volumes.degraded} degraded, ${volumes.suspended} suspended, ${volumes.unavailable} unavailable`,
    ],
  ]);
}

/** Everything up, online and in sync: what `cluster status --exit-code` asks. */
export function clusterIsHealthy(status: ClusterStatus): boolean {
  return (
    status.quorum &&
    status.nodes.up === status.nodes.total &&
    status.disks.online === status.disks.total &&
    status.volumes.degraded === 0 &&
    status.volumes.suspended === 0 &&
    status.volumes.unavailable === 0
  );
}

/** Of the segment that has fewest. */
export function inSyncCount(volume: Volume): number {
  return leastReplicas(volume, ({ state }) => state === 'in-sync');
}

/** `3/3`, and how many are to go. */
function inSyncText(volume: Volume): string {
  const leaving = volume.status.replicas.filter((replica) => replica.leaving).length;
  const count = `${inSyncCount(volume)}/${volume.spec.replicas}`;
  return leaving === 0 ? count : `${count} (${leaving} leaving)`;
}

/** Empty when nobody knows: replicas say it, or the primary, of the one that it has itself. */
export function usedSpace({ status }: Volume): string {
  const { primary, replicas, allocatedBytes, serving, space } = status;
  if (space) return formatByteSize(space.allocatedBytes);
  const knows = serving !== '' && replicas.some((replica) => replica.nodeId === primary?.nodeId);
  return knows || allocatedBytes > 0 ? formatByteSize(allocatedBytes) : '';
}

export function formatLabels(labels: Readonly<Record<string, string>>): string {
  return Object.entries(labels)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => `${key}=${value}`)
    .join(',');
}

/** `2026-11-21T13:20:26Z` */
export function formatTime(ms: number): string {
  return new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z');
}

/** `3, holding 12MiB more on each replica` */
function snapshotsText({ status }: Volume): string {
  const { snapshots, space } = status;
  const held = space?.snapshotBytes ?? 0;
  if (snapshots === 0 && held === 0) return '';
  const count = `${snapshots}`;
  return space ? `${count}, which hold ${formatByteSize(held)} more on each replica` : count;
}

function reclaimableText({ status }: Volume): string {
  const bytes = status.space?.reclaimableBytes ?? 0;
  return bytes === 0
    ? ''
    : `${formatByteSize(bytes)} on each replica: freed, and not given back to the file system yet`;
}

function originText({ status }: Volume): string {
  const { origin } = status;
  if (!origin) return '';
  return origin.snapshot === '' ? origin.volume : joinSnapshotName(origin.volume, origin.snapshot);
}
