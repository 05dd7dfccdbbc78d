import type { Command } from 'commander';
import { checkPlacement, spreadOverNone, StorError } from '@stor/protocol';
import type { AffinityRule, PlacementRules } from '@stor/protocol';
import { parseNewLabels } from './core/label-arguments.ts';

/** What commander makes of the flags that `addPlacementOptions` adds. */
export interface PlacementOptions {
  spreadOver?: string;
  requireSpread?: string;
  onNodes?: string[];
  affinity?: string[];
  antiAffinity?: string[];
}

/** Written in place of a rule it takes the rule away. */
const noRule = 'none';
/** `--spread-over` of this is as if it were never given. */
const usualSpread = 'default';

/** The flags of `volume create` and `volume update` that say where replicas may lie. */
export function addPlacementOptions(command: Command): Command {
  return command
    .option(
      '--spread-over <labels>',
      'spread replicas over the values of these node labels as far as it goes, for example zone,rack; none (default: zone, if any node has it)',
    )
    .option(
      '--require-spread <labels>',
      'never two replicas in one value of these node labels, for example zone; none',
    )
    .option(
      '--on-nodes <key=value>',
      'only nodes with this label; may be given more than once; none',
      collect,
    )
    .option(
      '--affinity <rule>',
      'beside replicas of volumes with a label: key=value[:required]; may be given more than once; none',
      collect,
    )
    .option(
      '--anti-affinity <rule>',
      'not beside replicas of volumes with a label, or not in the same domain: key=value[:required[:node label]]; may be given more than once; none',
      collect,
    );
}

function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}

/** The rules with what was given; null when nothing was. Throws INVALID_ARGUMENT. */
export function readPlacement(
  options: PlacementOptions,
  before: PlacementRules = {},
): PlacementRules | null {
  const { spreadOver, requireSpread, onNodes, affinity, antiAffinity } = options;
  const given: PlacementRules = {
    ...(spreadOver === undefined ? {} : { preferred: preferredKeys(spreadOver) }),
    ...(requireSpread === undefined ? {} : { required: keysOf('--require-spread', requireSpread) }),
    ...(onNodes === undefined ? {} : { nodeSelector: selectorOf(onNodes) }),
    ...(affinity === undefined ? {} : { affinity: rulesOf('--affinity', affinity) }),
    ...(antiAffinity === undefined
      ? {}
      : { antiAffinity: rulesOf('--anti-affinity', antiAffinity) }),
  };
  if (Object.keys(given).length === 0) return null;
  return checkPlacement({ ...before, ...given }) ?? {};
}

function preferredKeys(text: string): string[] {
  if (text === usualSpread) return [];
  return text === spreadOverNone ? [spreadOverNone] : keysOf('--spread-over', text);
}

function keysOf(flag: string, text: string): string[] {
  if (text === noRule) return [];
  const keys = text.split(',').map((key) => key.trim());
  if (!keys.includes('')) return keys;
  throw invalid(`${flag} ${JSON.stringify(text)} names no label: write for example zone,rack`);
}

function selectorOf(words: readonly string[]): Record<string, string> {
  return isNone(words) ? {} : parseNewLabels(words.flatMap((word) => word.split(',')));
}

function rulesOf(flag: string, words: readonly string[]): AffinityRule[] {
  return isNone(words) ? [] : words.map((word) => ruleOf(flag, word));
}

function isNone(words: readonly string[]): boolean {
  return words.length === 1 && words[0] === noRule;
}

function ruleOf(flag: string, word: string): AffinityRule {
  const match = /^(.*?)(?::(required|preferred)(?::([^:]+))?)?$/.exec(word);
  const [, labels = '', strength, domain = ''] = match ?? [];
  if (!labels.includes('=')) {
    throw invalid(`${flag} ${JSON.stringify(word)} names no label: write for example app=db`);
  }
  const rule = { labels: parseNewLabels(labels.split(',')), required: strength === 'required' };
  return domain === '' ? rule : { ...rule, domain };
}

function invalid(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}
