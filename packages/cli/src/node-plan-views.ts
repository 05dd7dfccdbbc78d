import { formatByteSize } from '@stor/protocol';
import type { NodePlan } from '@stor/protocol';
import { formatEta, formatRate } from './core/rebuild-text.ts';
import { renderTable, type Column } from './core/table.ts';

const attachmentColumns: Column<NodePlan['attachments'][number]>[] = [
  { title: 'ATTACHMENT', cell: ({ volume }) => volume },
  { title: 'MODE', cell: ({ mode }) => mode },
  { title: 'TO', cell: ({ toNode }) => toNode },
];

const moveColumns: Column<NodePlan['moves'][number]>[] = [
  { title: 'VOLUME', cell: ({ volume }) => volume },
  { title: 'SEGMENT', cell: ({ segment }) => String(segment), right: true },
  { title: 'REPLICA', cell: ({ replicaId }) => replicaId },
  { title: 'TO', cell: ({ toNode, toDisk }) => `${toNode}:${toDisk}` },
  { title: 'BYTES', cell: ({ bytes }) => formatByteSize(bytes), right: true },
];

const tableForm = { wide: false, headers: true };

/** A plan for people: what moves, what suffers, what is in the way, and whether it is safe. */
export function nodePlanText(plan: NodePlan): string {
  const { attachments, moves, effects, blocked, safe, reasons } = plan;
  const parts = [
    attachments.length === 0 ? '' : renderTable(attachments, attachmentColumns, tableForm),
    moves.length === 0 ? '' : renderTable(moves, moveColumns, tableForm),
    effects.map(({ volume, becomes, text }) => `${becomes}: volume ${volume}: ${text}\n`).join(''),
    blocked.map((one) => `cannot move: ${blockText(one)}\n`).join(''),
    `${planSum(plan)}\n${plan.notes.map((note) => `note: ${note}\n`).join('')}`,
    safe ? 'safe\n' : reasons.map((reason) => `NOT SAFE: ${reason}\n`).join(''),
  ];
  return parts.filter((part) => part !== '').join('\n');
}

function blockText({ volume, replicaId, reason }: NodePlan['blocked'][number]): string {
  const what =
    replicaId === ''
      ? `attachment of volume ${volume}`
      : `replica ${replicaId} of volume ${volume}`;
  return `${what}: ${reason}`;
}

function planSum({ attachments, moves, bytes, rate, etaMs }: NodePlan): string {
  const counts = `${countOf(attachments.length, 'attachment')} and ${countOf(moves.length, 'replica')} move`;
  if (moves.length + attachments.length === 0) return 'nothing moves';
  if (moves.length === 0) return counts;
  const from = rate.source === 'measured' ? 'as rebuilds run now' : 'assumed, no rebuild runs';
  return `${counts}, about ${formatByteSize(bytes)} are copied, in about ${formatEta(etaMs)} (at ${formatRate(rate.bytesPerSecond)}, ${from})`;
}

export function countOf(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
