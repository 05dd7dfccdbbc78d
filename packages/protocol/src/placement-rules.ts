import { StorError } from './errors.ts';
import { checkLabels } from './names.ts';
import type { AffinityRule, PlacementRules } from './resources.ts';

/** Label keys in one list of domains: more levels than a data centre has. */
export const maxDomainKeys = 4;
/** Labels of a node selector, and of one affinity rule. */
export const maxSelectorLabels = 16;
/** Affinity rules, and anti-affinity rules, of one volume: each costs a look at all volumes. */
export const maxAffinityRules = 8;
/** `preferred` of a volume that is to be spread over nothing but nodes. */
export const spreadOverNone = 'none';

/**
 * The rules without what says nothing; null when nothing is left. Throws INVALID_ARGUMENT.
 */
export function checkPlacement(rules: PlacementRules): PlacementRules | null {
  const required = checkKeys('required domains', rules.required ?? []);
  const preferred = checkPreferred(rules.preferred ?? []);
  const nodeSelector = checkSelector('node selector', rules.nodeSelector ?? {}, true);
  const affinity = checkRules('affinity', rules.affinity ?? []);
  const antiAffinity = checkRules('anti-affinity', rules.antiAffinity ?? []);
  const checked: PlacementRules = {
    ...(required.length === 0 ? {} : { required }),
    ...(preferred.length === 0 ? {} : { preferred }),
    ...(Object.keys(nodeSelector).length === 0 ? {} : { nodeSelector }),
    ...(affinity.length === 0 ? {} : { affinity }),
    ...(antiAffinity.length === 0 ? {} : { antiAffinity }),
  };
  return Object.keys(checked).length === 0 ? null : checked;
}

function checkPreferred(keys: readonly string[]): string[] {
  if (keys.length > 1 && keys.includes(spreadOverNone)) {
    throw invalid(`"${spreadOverNone}" stands alone: it spreads over nothing but nodes`);
  }
  return checkKeys('preferred domains', keys);
}

function checkKeys(what: string, keys: readonly string[]): string[] {
  if (keys.length > maxDomainKeys) {
    throw invalid(`${keys.length} ${what} are too many: name at most ${maxDomainKeys} label keys`);
  }
  for (const key of keys) checkLabels({ [key]: '' });
  // replicas never share a node, so that says nothing more
  return [...new Set(keys)].filter((key) => key !== 'node');
}

function checkSelector(
  what: string,
  labels: Record<string, string>,
  mayBeEmpty: boolean,
): Record<string, string> {
  const count = Object.keys(labels).length;
  if (count === 0 && !mayBeEmpty) throw invalid(`an ${what} rule names no label: write key=value`);
  if (count > maxSelectorLabels) {
    throw invalid(`${count} labels of an ${what} are too many: at most ${maxSelectorLabels}`);
  }
  checkLabels(labels);
  return labels;
}

function checkRules(
  what: 'affinity' | 'anti-affinity',
  rules: readonly AffinityRule[],
): AffinityRule[] {
  if (rules.length > maxAffinityRules) {
    throw invalid(`${rules.length} ${what} rules are too many: at most ${maxAffinityRules}`);
  }
  return rules.map(({ labels, required, domain = '' }) => {
    if (domain !== '' && what === 'affinity') {
      throw invalid('an affinity rule has no domain: it speaks of nodes');
    }
    if (domain !== '') checkLabels({ [domain]: '' });
    const checked = { labels: checkSelector(what, labels, false), required };
    return domain === '' || domain === 'node' ? checked : { ...checked, domain };
  });
}

function invalid(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}
