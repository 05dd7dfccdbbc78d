import { formatByteSize } from '@stor/protocol';
import type { PoolSpread, Rebalance, RebalanceMove } from '@stor/protocol';
import { formatAge } from './core/duration.ts';
import { formatEta } from './core/rebuild-text.ts';
import { renderSheet, renderTable, type Column } from './core/table.ts';
import { formatTime } from './resource-views.ts';

/** One sentence about what an order has led to. */
export function rebalanceWord({ state, message, plannedMoves, plannedBytes }: Rebalance): string {
  const left = `${movesText(plannedMoves)} to come (${formatByteSize(plannedBytes)})`;
  if (state === 'running') return `the rebalance runs: ${left}`;
  if (state === 'waiting') return `the rebalance waits: ${message}; ${left}`;
  if (state === 'paused') return `the rebalance is paused: ${left}`;
  if (state === 'idle') return 'no rebalance was ever begun';
  return `the rebalance is ${state}${message === '' ? '' : `: ${message}`}`;
}

function movesText(count: number): string {
  return count === 1 ? '1 move' : `${count} moves`;
}

/** All that is known; `isDryRun`: of one that does not exist. */
export function rebalanceSheet(known: Rebalance, nowMs: number, isDryRun = false): string {
  const { state, message, moved, movedBytes, failed, moving, planned, rate } = known;
  const { startedAtMs, endedAtMs, etaMs, plannedMoves, plannedBytes, planIsWhole } = known;
  const isShown = isDryRun || ['running', 'waiting', 'paused'].includes(state);
  const more = planIsWhole ? '' : ' or more';
  const facts = renderSheet([
    ['State', stateText(isDryRun, state, message)],
    [
      'Begun',
      startedAtMs === null
        ? ''
        : `${formatTime(startedAtMs)}, ${formatAge(nowMs - startedAtMs)} ago`,
    ],
    ['Ended', endedAtMs === null ? '' : formatTime(endedAtMs)],
    [
      'Moved',
      isDryRun || state === 'idle'
        ? ''
        : `${moved} ${moved === 1 ? 'replica' : 'replicas'}, ${formatByteSize(movedBytes)}`,
    ],
    ['Failed', failed > 0 ? `${movesText(failed)}: those replicas stay` : ''],
    [
      'Planned',
      isShown ? `${movesText(plannedMoves)}${more}, ${formatByteSize(plannedBytes)}` : '',
    ],
    ['Rate', isShown ? `${formatByteSize(rate.bytesPerSecond)}/s (${rate.source})` : ''],
    ['Ready in', formatEta(etaMs)],
    ['Settings', settingsText(known)],
  ]);
  const options = { wide: false, headers: true };
  const pools = renderTable(known.pools, isShown ? planColumns : spreadColumns, options);
  const moves = [
    ...moving.map((move) => ({ ...move, when: 'now' })),
    ...planned.map((move, i) => ({ ...move, when: String(i + 1) })),
  ];
  if (moves.length === 0) return `${facts}\n${pools}`;
  return `${facts}\n${pools}\n${renderTable(moves, moveColumns, options)}`;
}

function stateText(isDryRun: boolean, state: Rebalance['state'], message: string): string {
  const text = message === '' ? state : `${state}: ${message}`;
  if (!isDryRun) return text;
  return state === 'waiting'
    ? `dry run, nothing is changed; it would wait: ${message}`
    : 'dry run, nothing is changed';
}

function settingsText({ settings }: Rebalance): string {
  const { bandPercent, bytesPerSecond, maxMoves, stopAfter } = settings;
  const budget = bytesPerSecond === 0 ? 'no budget' : `at most ${formatByteSize(bytesPerSecond)}/s`;
  const end = stopAfter === 0 ? '' : `, ends after ${movesText(stopAfter)}`;
  return `band ${bandPercent}%, ${movesText(maxMoves)} at one time, ${budget}${end}`;
}

const spreadColumns: Column<PoolSpread>[] = [
  { title: 'TAG', cell: ({ tag }) => tag },
  { title: 'DISKS', cell: ({ disks }) => String(disks), right: true },
  { title: 'EMPTIEST', cell: ({ lowestPercent }) => `${lowestPercent}%`, right: true },
  { title: 'FULLEST', cell: ({ highestPercent }) => `${highestPercent}%`, right: true },
];

const planColumns: Column<PoolSpread>[] = [
  ...spreadColumns,
  {
    title: 'AFTERWARDS',
    cell: ({ plannedLowestPercent: low, plannedHighestPercent: high }) => `${low}% to ${high}%`,
    right: true,
  },
];

const moveColumns: Column<RebalanceMove & { when: string }>[] = [
  { title: 'MOVE', cell: ({ when }) => when, right: true },
  { title: 'VOLUME', cell: ({ volume }) => volume },
  { title: 'SEGMENT', cell: ({ segment }) => String(segment), right: true },
  { title: 'FROM', cell: ({ fromNode, fromDisk }) => `${fromNode}:${fromDisk}` },
  { title: 'TO', cell: ({ toNode, toDisk }) => `${toNode}:${toDisk}` },
  { title: 'SIZE', cell: ({ bytes }) => formatByteSize(bytes), right: true },
];
