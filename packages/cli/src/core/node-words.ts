import type { Node } from '@stor/protocol';

/** What operators want of a node, shortly, for tables; empty when it is nothing special. */
export function intentWords({ spec }: Pick<Node, 'spec'>): string[] {
  const { cordoned, drain, evacuate, maintenance, decommission } = spec;
  const words = [
    cordoned ? 'cordoned' : '',
    drain ? 'drained' : '',
    evacuate ? 'evacuating' : '',
    maintenance ? 'maintenance' : '',
    decommission ? 'decommissioning' : '',
  ];
  return words.filter((word) => word !== '');
}

/** The same with what is known about it. */
export function intentText(node: Pick<Node, 'spec'>, formatTime: (ms: number) => string): string {
  const { cordoned, maintenance } = node.spec;
  const more: Readonly<Record<string, string>> = {
    cordoned: cordoned?.reason ? ` (${cordoned.reason})` : '',
    maintenance: maintenance ? ` until ${formatTime(maintenance.untilMs)}` : '',
  };
  return intentWords(node)
    .map((word) => `${word}${more[word] ?? ''}`)
    .join(', ');
}
