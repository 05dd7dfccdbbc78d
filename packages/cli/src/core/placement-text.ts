import type { AffinityRule, PlacementRules } from '@stor/protocol';

/** Rules as people write them, one line for each kind; what says nothing is left out. */
export function placementLines(rules: PlacementRules): [string, string][] {
  const { required = [], preferred = [], nodeSelector = {} } = rules;
  const { affinity = [], antiAffinity = [] } = rules;
  const lines: [string, string][] = [
    ['Required spread', required.join(', ')],
    ['Spread over', preferred.join(', then ')],
    ['On nodes', labelsText(nodeSelector)],
    ['Affinity', affinity.map(ruleText).join(', ')],
    ['Anti-affinity', antiAffinity.map(ruleText).join(', ')],
  ];
  return lines.filter(([, text]) => text !== '');
}

/** `app=db:required:zone`, as `--anti-affinity` takes it. */
export function ruleText({ labels, required, domain = '' }: AffinityRule): string {
  const strength = required ? ':required' : domain === '' ? '' : ':preferred';
  return `${labelsText(labels)}${strength}${domain === '' ? '' : `:${domain}`}`;
}

function labelsText(labels: Readonly<Record<string, string>>): string {
  return Object.entries(labels)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => `${key}=${value}`)
    .join(',');
}

/** One line for each kind of rule that differs. */
export function placementChanges(
  before: PlacementRules,
  after: PlacementRules,
): [string, string, string][] {
  const old = new Map(placementLines(before));
  const now = new Map(placementLines(after));
  return [...new Set([...old.keys(), ...now.keys()])].map((name) => {
    const usual = name === 'Spread over' ? 'default' : 'none';
    return [name.toLowerCase(), old.get(name) ?? usual, now.get(name) ?? usual];
  });
}
