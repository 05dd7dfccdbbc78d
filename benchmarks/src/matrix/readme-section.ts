import type { RecordedPeer } from '../accept/fast/recorded.ts';
import { verdictLines, type VerdictLine } from '../accept/fast/verdict-table.ts';
import type { Summary } from '../measure/rounds.ts';
import { benchWorkloads } from '../measure/workloads.ts';
import { grouped } from './chart.ts';
import type { BenchResult } from './results-file.ts';
import { whyNot } from './result-table.ts';

const begin = '<!-- bench: begin; written by npm run bench -- --readme FILE -->';
const end = '<!-- bench: end -->';

const MiB = 1024 * 1024;

/** The text between the two marks replaced. Throws when they are not there. */
export function withSection(page: string, section: string): string {
  const from = page.indexOf(begin);
  const to = page.indexOf(end);
  if (from < 0 || to < from) throw new Error(`the page has no lines "${begin}" and "${end}"`);
  return `${page.slice(0, from)}${begin}\n\n${section}\n${page.slice(to)}`;
}

export interface SectionOptions {
  result: BenchResult;
  recorded: readonly RecordedPeer[];
  /** of the picture and the file of results, as the page links them */
  picturePath: string;
  resultPath: string;
}

/** What the README says about speed, in Markdown, from a file of results. */
export function readmeSection(options: SectionOptions): string {
  const { result, recorded, picturePath, resultPath } = options;
  const lines = verdictLines(result.samples, recorded);
  return [
    about(result, resultPath),
    '',
    `![medians by workload](${picturePath})`,
    '',
    ...mediansTable(result),
    '',
    'IOPS, for 1 MiB MiB/s; in brackets CPU time of all server processes per request. What an',
    'acknowledged write means:',
    '',
    ...result.systems.map(({ name, acknowledges, failure }) =>
      failure === null ? `- ${name}: ${acknowledges}.` : `- ${name}: ${whyNot(failure)}.`,
    ),
    '',
    'Ratios to the fastest peer of each workload, medians of the rounds measured side by side; first what',
    'must hold, then what we are after:',
    '',
    ...verdictTable(lines),
    '',
  ].join('\n');
}

function about({ date, machine, pieces }: BenchResult, resultPath: string): string {
  const rounds = pieces.map((piece) => piece.rounds);
  const seconds = [...new Set(pieces.map((piece) => piece.runtimeSeconds))].join(' or ');
  const sizes = [...new Set(pieces.map((piece) => `${piece.sizeBytes / MiB} MiB`))].join(', ');
  const filled = [...new Set(pieces.map((piece) => piece.prefill))].join(' or ');
  const fact = (name: string): string => String(machine[name] ?? '');
  return (
    `Measured on ${date.slice(0, 10)} on one machine with ${fact('cpus')} cores and ` +
    `${fact('memoryGiB')} GiB (${fact('cpu')}, Linux ${fact('kernel')}, ${fact('fileSystem')}, Node ` +
    `${fact('node')}, ${fact('fio')}), all servers on it beside each other, in ${pieces.length} ` +
    `${pieces.length === 1 ? 'piece' : 'pieces'} of ${Math.min(...rounds)} to ${Math.max(...rounds)} ` +
    `interleaved rounds of ${seconds} s, on volumes of ${sizes}, filled before by requests of ${filled}. Three replicas share one disk and the ` +
    `cores with fio. Repeat it with \`npm run accept -- fast\`; [every sample](${resultPath}).`
  );
}

function mediansTable({ summaries, systems }: BenchResult): string[] {
  const names = systems
    .map(({ name }) => name)
    .filter((name) => summaries.some(({ server }) => server === name));
  const rows = benchWorkloads.flatMap(({ id, name }) => {
    const cells = names.map((server) => {
      const found = summaries.find((one) => one.server === server && one.workload === name);
      return found ? cell(found, id.startsWith('seq')) : '';
    });
    return cells.every((text) => text === '') ? [] : [[name, ...cells]];
  });
  return markdown([['', ...names], ...rows]);
}

function cell({ iops, bytesPerSecond, cpuUsPerIo }: Summary, isSequential: boolean): string {
  const value = (isSequential ? bytesPerSecond.median / MiB : iops.median).toFixed(0);
  const cpuUs = cpuUsPerIo.median;
  // a raw file has no server
  if (cpuUs === 0) return grouped(value);
  return `${grouped(value)} (${cpuUs.toFixed(cpuUs < 10 ? 1 : 0)} us)`;
}

function verdictTable(lines: readonly VerdictLine[]): string[] {
  const rows = lines.map((line) => [
    line.name,
    line.isMet ? line.value : `**${line.value}**`,
    line.must,
    line.aim,
    line.isMet ? (line.isAimMet ? 'yes' : 'must only') : '**missed**',
    line.detail,
  ]);
  return markdown([['', 'measured', 'must', 'after', 'met', 'rounds and peers'], ...rows]);
}

function markdown([head = [], ...rows]: readonly (readonly string[])[]): string[] {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)];
}
