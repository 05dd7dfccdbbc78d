import type { Command } from 'commander';
import { StorError, parseByteSize } from '@stor/protocol';
import type { PlacementCandidate, PlacementExplanation, PlacementViolation } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { parseNewLabels } from '../core/label-arguments.ts';
import { placementLines } from '../core/placement-text.ts';
import { renderSheet, renderTable, type Column } from '../core/table.ts';
import { addPlacementOptions, readPlacement, type PlacementOptions } from '../placement-options.ts';
import { parseReplicas } from '../policy-options.ts';
import {
  addPolicyNameOption,
  addQosOption,
  readPolicyName,
  readQos,
  type PolicyNameOptions,
  type QosOptions,
} from '../qos-options.ts';

interface ExplainOptions extends PlacementOptions, QosOptions, PolicyNameOptions {
  replicas?: number;
  segment?: string;
  size?: string;
  label?: string[];
  diskTag?: string;
  on?: string;
}

export function addPlacementCommands(program: Command, run: RunAction): void {
  const placement = program
    .command('placement')
    .description('where replicas lie, could lie, and should not lie');
  addExplain(placement, run);
  placement
    .command('violations')
    .argument('[volume]', 'name or id (default: all volumes)')
    .description('list the rules that replicas break, and what becomes of each')
    .addHelpText(
      'after',
      `
Required rules are mended by moves, one replica of a volume at a time; for preferred ones nothing moves.

Examples:
  storctl placement violations
  storctl placement violations db -o json`,
    )
    .action(async (name: string | undefined, _options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const { violations } = await api.listPlacementViolations({ volume: name ?? '' }, call);
        if (violations.length === 0 && print.forPeople) {
          print.facts({}, 'every replica lies where its rules want it\n');
          return;
        }
        print.rows(violations, violationColumns, ({ volumeId }) => volumeId);
      }),
    );
}

function addExplain(placement: Command, run: RunAction): void {
  const explain = placement
    .command('explain')
    .argument('[volume]', 'name or id; leave it out for a volume that does not exist yet')
    .option('--replicas <count>', 'for so many replicas in all, 1 to 5', parseReplicas)
    .option('--segment <index>', 'of this segment (default: 0)')
    .option('--size <size>', 'of a volume that does not exist: its size, for example 10GiB')
    .option('--label <key=value>', 'of a volume that does not exist: its labels', collect)
    .option('--disk-tag <tag>', 'of a volume that does not exist: only disks of this tag')
    .option('--on <node>', 'of a volume that does not exist: the node that would use it');
  addQosOption(
    addPolicyNameOption(addPlacementOptions(explain)),
    'of a volume that does not exist: what it is guaranteed, for example min-iops=1000',
  )
    .description('show the score of every disk that could take a replica, and why others cannot')
    .addHelpText(
      'after',
      `
The score is the sum of its parts: 10000 for each new domain, 5000 for the node of the user, 300 for each
preferred rule, -100 to 100 for what is free and not promised. Several replicas are chosen together.

Examples:
  storctl placement explain db
  storctl placement explain db --replicas 3
  storctl placement explain --size 10GiB --replicas 3 --require-spread zone
  storctl placement explain --size 10GiB --replicas 3 --qos min-iops=5000`,
    )
    .action(async (name: string | undefined, options: ExplainOptions, command: Command) => {
      const placementRules = readPlacement(options);
      const qos = readQos(options)?.set;
      const policyName = readPolicyName(options);
      const isWished = qos !== undefined || policyName !== undefined;
      checkOptions(name, options, placementRules !== null || isWished);
      const request = {
        volume: name ?? '',
        segment: parseSegment(options.segment),
        replicas: options.replicas ?? 0,
        sizeBytes: options.size === undefined ? 0 : parseByteSize(options.size),
        labels: parseNewLabels(options.label ?? []),
        diskTag: options.diskTag ?? '',
        onNode: options.on ?? '',
        ...(placementRules === null ? {} : { placement: placementRules }),
        ...(qos === undefined ? {} : { qos }),
        ...(policyName === undefined ? {} : { policyName }),
      };
      await run(command.optsWithGlobals(), async (context) => {
        const explanation = await context.api.explainPlacement(request, context.call);
        show(context, explanation);
      });
    });
}

function checkOptions(
  name: string | undefined,
  { size, label, diskTag, on, segment }: ExplainOptions,
  hasRules: boolean,
): void {
  if (name === undefined) {
    if (segment !== undefined) throw invalid('--segment needs a volume');
    if (size === undefined) throw invalid('name a volume, or give --size for one to be created');
    return;
  }
  if (size === undefined && label === undefined && diskTag === undefined && on === undefined) {
    if (!hasRules) return;
  }
  throw invalid(`volume ${name} has its own size, labels and rules: only --replicas goes with it`);
}

function parseSegment(text: string | undefined): number {
  if (text === undefined) return 0;
  if (/^[0-9]{1,3}$/.test(text)) return Number(text);
  throw invalid(`segment ${JSON.stringify(text)} is not valid: they are counted from 0`);
}

function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}

function invalid(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}

const violationColumns: Column<PlacementViolation>[] = [
  { title: 'VOLUME', cell: ({ volume }) => volume },
  { title: 'SEGMENT', cell: ({ segment }) => String(segment), right: true, wide: true },
  { title: 'RULE', cell: ({ kind, required }) => (required ? kind : `${kind} (preferred)`) },
  { title: 'BROKEN BECAUSE', cell: ({ message }) => message },
  { title: 'NEXT', cell: ({ next }) => next },
];

const candidateColumns: Column<PlacementCandidate>[] = [
  { title: 'TAKEN', cell: ({ chosen }) => (chosen === 0 ? '' : String(chosen)), right: true },
  { title: 'NODE', cell: ({ node }) => node },
  { title: 'DISK', cell: ({ disk }) => disk },
  { title: 'SCORE', cell: ({ score }) => String(score), right: true },
  {
    title: 'PARTS',
    cell: ({ parts }) =>
      parts.map(({ name, points, text }) => `${name} ${points} (${text})`).join(', '),
  },
];

const refusalColumns: Column<PlacementExplanation['refused'][number]>[] = [
  { title: 'NODE', cell: ({ node }) => node },
  { title: 'DISK', cell: ({ disk }) => disk },
  { title: 'REFUSED BECAUSE IT', cell: ({ reason }) => reason },
];

function show({ print }: CommandContext, explanation: PlacementExplanation): void {
  const { candidates, refused, violations, problem, placed, replicas } = explanation;
  const options = { wide: false, headers: true };
  const sheet = renderSheet([
    ['Volume', explanation.volume],
    ['Replicas on', placed.join(', ')],
    ['To be placed', String(replicas)],
    ...placementLines(explanation.rules),
    ['Problem', problem],
  ]);
  const tables = [
    candidates.length === 0
      ? 'no disk could take a replica\n'
      : renderTable(candidates, candidateColumns, options),
    ...(refused.length === 0 ? [] : [renderTable(refused, refusalColumns, options)]),
    ...(violations.length === 0 ? [] : [renderTable(violations, violationColumns, options)]),
  ];
  print.answer({ ...explanation }, [sheet, ...tables].join('\n'));
}
