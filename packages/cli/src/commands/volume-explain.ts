import type { Command } from 'commander';
import type { VolumeExplanation } from '@stor/protocol';
import type { RunAction } from '../command-context.ts';
import { formatAge } from '../core/duration.ts';
import { renderSheet } from '../core/table.ts';
import { formatTime } from '../resource-views.ts';

export function addExplainCommand(volume: Command, run: RunAction): void {
  volume
    .command('explain')
    .argument('<volume>', 'name or id')
    .description('say why a volume is as it is, what happens next and what can be done')
    .addHelpText(
      'after',
      '\nExamples:\n  storctl volume explain db\n  storctl volume explain db -o json',
    )
    .action(async (name: string, _options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call, nowMs }) => {
        const explanation = await api.explainVolume({ name }, call);
        print.facts({ ...explanation }, explanationSheet(explanation, nowMs));
      }),
    );
}

function explanationSheet(explanation: VolumeExplanation, nowMs: number): string {
  const { name, health, state, sinceMs, causes, holder, next, advice } = explanation;
  const sheet = renderSheet([
    ['Volume', `${name} is ${health}`],
    ['State', state],
    ['Since', sinceMs === null ? '' : since(sinceMs, nowMs)],
    ['Held by', holder === '' ? 'nobody' : holder],
  ]);
  const why = causes.map(({ text, sinceMs: causeMs }) =>
    causeMs === null ? text : `${text} (since ${since(causeMs, nowMs)})`,
  );
  return `${sheet}${list('Why', why)}${list('What happens next', next)}${list('What you can do', advice)}`;
}

function list(title: string, lines: readonly string[]): string {
  if (lines.length === 0) return '';
  return `\n${title}:\n${lines.map((line) => `  - ${line.replaceAll(/\p{Cc}/gu, ' ')}\n`).join('')}`;
}

/** `2026-01-02T03:04:05Z, 2m10s ago` */
function since(ms: number, nowMs: number): string {
  return `${formatTime(ms)}, ${formatAge(nowMs - ms)} ago`;
}
