import { spreadOverNone } from '@stor/protocol';
import type { AffinityRule, NodeId, PlacementRules } from '@stor/protocol';
import type { NodeRecord } from '../../resources/records.ts';
import { hasLabels } from './placement-board.ts';
import type { PlacementBoard, PlacementSubject } from './placement-board.ts';
import { makeSite } from './spread.ts';
import type { Site } from './spread.ts';

/** Spread over this label when a volume says nothing and any node has it. */
export const usualDomain = 'zone';

/** Why a node cannot have a replica whatever its disks are; the reason follows its name. */
export interface RuleRefusal {
  reason: string;
  code: 'selector' | 'no-label' | 'domain' | 'affinity' | 'anti-affinity';
}

/** Label keys to spread over at present. */
export function preferredDomains(board: PlacementBoard, rules: PlacementRules): readonly string[] {
  const { preferred = [] } = rules;
  if (preferred.length === 0) return board.knowsLabel(usualDomain) ? [usualDomain] : [];
  return preferred.includes(spreadOverNone) ? [] : preferred;
}

/** What speaks for and against a node among the nodes that may have a replica. */
export function siteOf(
  board: PlacementBoard,
  subject: PlacementSubject,
  node: NodeRecord,
  domains: readonly string[] = preferredDomains(board, subject.rules),
): Site {
  const { rules } = subject;
  const { affinity = [], antiAffinity = [] } = rules;
  const isSame = [...affinity, ...antiAffinity].every((rule) => rule.required);
  // without preferred rules it depends on the node alone, and the next volume or segment asks again
  if (!isSame) return makeSiteOf(board, subject, node, domains);
  return board.rememberSite(
    [...(rules.required ?? []), '', ...domains].join('\u0000'),
    node.id,
    () => makeSiteOf(board, subject, node, domains),
  );
}

function makeSiteOf(
  board: PlacementBoard,
  subject: PlacementSubject,
  node: NodeRecord,
  domains: readonly string[],
): Site {
  const { rules } = subject;
  const required = (rules.required ?? []).map((key) => `${key}=${node.labels[key] ?? ''}`);
  const path: string[] = [];
  for (const key of domains) {
    const value = node.labels[key];
    // a node without the label is in no domain that could be told from others
    if (value === undefined) break;
    path.push(`${key}=${value}`);
  }
  return makeSite({ required, path, points: affinityPoints(board, subject, node) });
}

function affinityPoints(
  board: PlacementBoard,
  subject: PlacementSubject,
  node: NodeRecord,
): number {
  const { affinity = [], antiAffinity = [] } = subject.rules;
  let points = 0;
  for (const rule of affinity) {
    if (!rule.required && isBeside(board, subject, rule, node)) points += 1;
  }
  for (const rule of antiAffinity) {
    if (!rule.required && neighbourOf(board, subject, rule, node) !== null) points -= 1;
  }
  return points;
}

/** Some other volume that the rule speaks of has a replica on the node. */
function isBeside(
  board: PlacementBoard,
  subject: PlacementSubject,
  rule: AffinityRule,
  node: NodeRecord,
): boolean {
  return otherThan(board.holders(rule.labels).get(node.id), subject.volumeId) !== null;
}

function otherThan(ids: ReadonlySet<string> | undefined, own: string): string | null {
  for (const id of ids ?? []) if (id !== own) return id;
  return null;
}

/** A volume that the rule speaks of, in the node's domain; null when there is none. */
function neighbourOf(
  board: PlacementBoard,
  subject: PlacementSubject,
  rule: AffinityRule,
  node: NodeRecord,
): string | null {
  return neighbourAmong(board, subject, { rule, holders: board.holders(rule.labels) }, node);
}

function neighbourAmong(
  board: PlacementBoard,
  subject: PlacementSubject,
  { rule, holders }: { rule: AffinityRule; holders: ReadonlyMap<NodeId, ReadonlySet<string>> },
  node: NodeRecord,
): string | null {
  const { domain = '' } = rule;
  const beside = otherThan(holders.get(node.id), subject.volumeId);
  const value = node.labels[domain];
  if (beside !== null || domain === '' || domain === 'node' || value === undefined) return beside;
  for (const [nodeId, ids] of holders) {
    if (board.state.nodes.get(nodeId)?.value.labels[domain] !== value) continue;
    const other = otherThan(ids, subject.volumeId);
    if (other !== null) return other;
  }
  return null;
}

/** Node labels and other volumes forbid a replica there; null when they do not. */
export function nodeRefusal(
  board: PlacementBoard,
  subject: PlacementSubject,
  node: NodeRecord,
): RuleRefusal | null {
  const { nodeSelector = {}, required = [] } = subject.rules;
  for (const [key, value] of Object.entries(nodeSelector)) {
    if (node.labels[key] === value) continue;
    const has = node.labels[key] === undefined ? 'has no such label' : `has ${node.labels[key]}`;
    return { reason: `is not ${key}=${value} (it ${has})`, code: 'selector' };
  }
  for (const key of required) {
    if (node.labels[key] !== undefined) continue;
    const reason = `has no label ${key}, by which replicas must be apart`;
    return { reason, code: 'no-label' };
  }
  return volumesRefusal(board, subject, node);
}

function volumesRefusal(
  board: PlacementBoard,
  subject: PlacementSubject,
  node: NodeRecord,
): RuleRefusal | null {
  const { affinity = [], antiAffinity = [] } = subject.rules;
  for (const rule of affinity) {
    if (!rule.required || isBeside(board, subject, rule, node)) continue;
    const isFirst = !board.hasVolume(rule.labels, subject.volumeId);
    // the first of volumes that want to lie together may lie anywhere
    if (isFirst && hasLabels(subject.labels, rule.labels)) continue;
    const what = `a volume with ${labelsText(rule.labels)}`;
    const reason = isFirst
      ? `cannot be beside ${what}: there is none`
      : `has no replica of ${what}`;
    return { reason, code: 'affinity' };
  }
  for (const rule of antiAffinity) {
    const other = rule.required ? neighbourOf(board, subject, rule, node) : null;
    if (other === null) continue;
    const reason = `${nearText(rule, node)} a replica of volume ${volumeName(board, other)} (${labelsText(rule.labels)})`;
    return { reason, code: 'anti-affinity' };
  }
  return repelledBy(board, subject, node);
}

/** The rules of others hold as well: who keeps away from this volume must find it nowhere near. */
function repelledBy(
  board: PlacementBoard,
  subject: PlacementSubject,
  node: NodeRecord,
): RuleRefusal | null {
  for (const { rule, holders } of board.repellers) {
    if (!hasLabels(subject.labels, rule.labels)) continue;
    const other = neighbourAmong(board, subject, { rule, holders }, node);
    if (other === null) continue;
    const reason = `${nearText(rule, node)} a replica of volume ${volumeName(board, other)}, which keeps away from ${labelsText(rule.labels)}`;
    return { reason, code: 'anti-affinity' };
  }
  return null;
}

function nearText({ domain = '' }: AffinityRule, node: NodeRecord): string {
  return domain === '' || domain === 'node'
    ? 'has'
    : `is in the same ${domain} (${node.labels[domain] ?? node.name}) as`;
}

/** A replica there would share a required domain with one that stays on another node. */
export function domainRefusal(
  board: PlacementBoard,
  { rules }: PlacementSubject,
  node: NodeRecord,
  fixed: readonly NodeId[],
): RuleRefusal | null {
  for (const key of rules.required ?? []) {
    const value = node.labels[key];
    for (const nodeId of fixed) {
      const other = board.state.nodes.get(nodeId)?.value;
      if (!other || nodeId === node.id || other.labels[key] !== value) continue;
      const reason = `is in ${key} ${value}, where node ${other.name} has one already`;
      return { reason, code: 'domain' };
    }
  }
  return null;
}

function volumeName(board: PlacementBoard, id: string): string {
  return board.state.volumes.get(id)?.value.metadata.name ?? id;
}

export function labelsText(labels: Readonly<Record<string, string>>): string {
  return Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .join(',');
}
