import { StorError } from '@stor/protocol';
import type { LossSimulation, NodeId } from '@stor/protocol';
import { nodeName } from '../../resources/cluster-state.ts';
import type { ClusterState } from '../../resources/cluster-state.ts';
import { findDisk, fullName } from '../disk/find-disk.ts';
import { byRank, fateOf, fateText } from './loss.ts';
import type { Departure, VolumeFate } from './loss.ts';
import { copyTime } from './plan-node.ts';
import { raftWithout } from './raft-quorum.ts';
import { recoveryOf } from './recovery.ts';
import type { Losses } from './recovery.ts';

/** `node=n3`, `disk=n1:/srv/d1`, `zone=b`: what these words name. NOT_FOUND, INVALID_ARGUMENT. */
export function findLosses(state: ClusterState, words: readonly string[]): Losses {
  const losses: Losses = { nodes: new Set(), disks: new Set() };
  if (words.length === 0)
    throw invalid('nothing is named: use node=NAME, disk=DISK or LABEL=VALUE');
  for (const word of words) {
    const at = word.indexOf('=');
    const [key, value] = [word.slice(0, at), word.slice(at + 1)];
    if (at <= 0 || value === '') {
      throw invalid(
        `${JSON.stringify(word)} names nothing: use node=NAME, disk=DISK or LABEL=VALUE`,
      );
    }
    if (key === 'disk') losses.disks.add(findDisk(state, value).value.id);
    else for (const id of nodesNamed(state, key, value)) losses.nodes.add(id);
  }
  return losses;
}

function nodesNamed(state: ClusterState, key: string, value: string): NodeId[] {
  const nodes = [...state.nodes.values()].map((node) => node.value);
  const found = nodes.filter(({ id, name, labels }) =>
    key === 'node' ? name === value || id === value : labels[key] === value,
  );
  if (found.length > 0) return found.map(({ id }) => id);
  const known = nodes.flatMap(({ name, labels }) =>
    key === 'node' ? [name] : (labels[key] ?? []),
  );
  const list = [...new Set(known)].sort().join(', ');
  const there = key === 'node' ? `the nodes are ${list}` : `values of that label are ${list}`;
  throw new StorError(
    'NOT_FOUND',
    `there is no node ${word(key, value)}: ${list === '' ? 'no node has that label' : there}`,
  );
}

const word = (key: string, value: string): string =>
  key === 'node' ? JSON.stringify(value) : `with label ${key}=${value}`;

function invalid(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}

/**
 * What becomes of each volume when these are lost for ever, beside what is down already, and what is
 * copied until each has its copies again. By the same rules as the controllers have.
 */
export function simulateLoss(
  state: ClusterState,
  losses: Losses,
  sight: { measuredBytesPerSecond: number; voters: readonly NodeId[] | null },
): LossSimulation {
  const departure: Departure = {
    isAway: ({ nodeId, diskId }) => losses.nodes.has(nodeId) || losses.disks.has(diskId),
    forEver: true,
  };
  const counts = { readWrite: 0, degraded: 0, suspended: 0, unavailable: 0, lost: 0 };
  const touched: (Omit<LossSimulation['volumes'][number], 'becomes'> & { becomes: VolumeFate })[] =
    [];
  for (const { value } of state.volumes.values()) {
    if (value.status.phase !== 'ready') continue;
    const { fate, inSync } = fateOf(state, value, departure);
    counts[fate === 'healthy' ? 'readWrite' : fate] += 1;
    const isThere = value.status.segments.some(({ replicas }) =>
      replicas.some((replica) => departure.isAway(replica)),
    );
    if (!isThere) continue;
    const { id: volumeId, name: volume } = value.metadata;
    const text = fateText(state, value, { fate, inSync, departure });
    touched.push({ volume, volumeId, becomes: fate, inSync, wanted: value.spec.replicas, text });
  }
  touched.sort(byRank);
  const { moves, blocked, bytes } = recoveryOf(state, losses);
  return {
    nodes: [...losses.nodes].map((id) => nodeName(state, id)).sort(),
    disks: [...losses.disks].flatMap((id) => {
      const disk = state.disks.get(id)?.value;
      return disk ? [fullName(disk, state)] : [];
    }),
    counts,
    volumes: touched.map((each) => ({
      ...each,
      becomes: each.becomes === 'healthy' ? 'read-write' : each.becomes,
    })),
    recovery: {
      replicas: moves.length,
      bytes,
      ...copyTime(bytes, sight.measuredBytesPerSecond),
      blocked,
    },
    raft: sight.voters && raftWithout(state, sight.voters, losses.nodes),
  };
}
