import type { Summary } from '../measure/rounds.ts';
import { workloadById } from '../measure/workloads.ts';

/** Left: who keeps one copy. Right: who keeps three. Those that were not measured are left out. */
const columns = [
  {
    title: 'one copy',
    systems: ['stor-1', 'qemu-nbd', 'qemu-nbd-io_uring', 'nbdkit'],
  },
  {
    title: 'three copies',
    systems: ['stor-3', 'qemu-quorum', 'qemu-quorum-fifo', 'gluster', 'ceph'],
  },
] as const;

const rows = [
  'write-qd1',
  'write-qd32',
  'read-qd1',
  'read-qd32',
  'seq-write',
  'seq-read',
  'write-flush',
] as const;

// pixels
const panelWidth = 440;
const gap = 30;
const nameWidth = 130;
const valueWidth = 70;
const barHeight = 14;
const barStep = 20;
const titleHeight = 26;
const headHeight = 34;

const MiB = 1024 * 1024;

/** No background, and colours that follow the reader's scheme: it stands on light and dark pages. */
const style = `
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f; }
  .head { font-weight: 600; font-size: 14px; }
  .title { font-weight: 600; }
  .quiet { fill: #6a737d; }
  .bar { fill: #afb8c1; }
  .ours { fill: #0969da; }
  .range { stroke: #57606a; stroke-width: 1.5; }
  .base { stroke: #d0d7de; stroke-width: 1; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .quiet { fill: #9198a1; }
    .bar { fill: #484f58; }
    .ours { fill: #4493f8; }
    .range { stroke: #c9d1d9; }
    .base { stroke: #3d444d; }
  }
`;

/**
 * Bars of the medians with a line from the slowest to the fastest round, a panel for each workload and
 * number of copies, each with a scale of its own. Hand-written: a chart library would be larger than all
 * of this, and would draw for a page with a script.
 */
export function benchChart(summaries: readonly Summary[]): string {
  const body: string[] = [];
  const width = 2 * panelWidth + gap;
  for (const [index, { title }] of columns.entries()) {
    body.push(text(index * (panelWidth + gap), 18, title, 'head'));
  }
  let y = headHeight;
  for (const id of rows) {
    const panels = columns.map(({ systems }) => inPanel(summaries, id, systems));
    const bars = Math.max(...panels.map((panel) => panel.length));
    if (bars === 0) continue;
    for (const [index, panel] of panels.entries()) {
      body.push(...drawPanel(id, panel, index * (panelWidth + gap), y));
    }
    y += titleHeight + bars * barStep + 14;
  }
  const size = `width="${width}" height="${y}" viewBox="0 0 ${width} ${y}"`;
  const label = 'Medians of Stor and its peers by workload; bars further right are faster';
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} role="img" aria-label="${label}">\n<style>${style}</style>\n${body.join('\n')}\n</svg>\n`;
}

function inPanel(summaries: readonly Summary[], id: string, systems: readonly string[]): Summary[] {
  const { name } = workloadById(id);
  return systems.flatMap(
    (system) => summaries.find((one) => one.server === system && one.workload === name) ?? [],
  );
}

function drawPanel(id: string, panel: readonly Summary[], x: number, top: number): string[] {
  if (panel.length === 0) return [];
  const isSequential = id.startsWith('seq');
  const unit = isSequential ? 'MiB/s' : 'IOPS';
  const spread = (summary: Summary) => (isSequential ? summary.bytesPerSecond : summary.iops);
  const most = Math.max(...panel.map((summary) => spread(summary).max));
  const left = x + nameWidth;
  const room = panelWidth - nameWidth - valueWidth;
  const at = (value: number): string => (left + (value / most) * room).toFixed(1);
  const bottom = top + titleHeight + panel.length * barStep;
  const lines = [text(x, top + 14, `${workloadById(id).name}, ${unit}`, 'title')];
  for (const [index, summary] of panel.entries()) {
    const { min, median, max } = spread(summary);
    const y = top + titleHeight + index * barStep;
    const middle = y + barHeight / 2;
    const kind = summary.server.startsWith('stor-') ? 'ours' : 'bar';
    const value = (isSequential ? median / MiB : median).toFixed(0);
    lines.push(
      text(x, y + 11, summary.server, kind === 'ours' ? 'title' : 'quiet'),
      `<rect class="${kind}" x="${left}" y="${y}" width="${((median / most) * room).toFixed(1)}" height="${barHeight}" rx="2"/>`,
      `<line class="range" x1="${at(min)}" x2="${at(max)}" y1="${middle}" y2="${middle}"/>`,
      text(left + room + 8, y + 11, grouped(value), kind === 'ours' ? 'title' : 'quiet'),
    );
  }
  lines.push(
    `<line class="base" x1="${left}" x2="${left}" y1="${top + titleHeight - 3}" y2="${bottom - 3}"/>`,
  );
  return lines;
}

function text(x: number, y: number, content: string, className: string): string {
  const safe = content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
  return `<text class="${className}" x="${x}" y="${y}">${safe}</text>`;
}

/** 12345 as 12,345 */
export function grouped(digits: string): string {
  return digits.replace(/\B(?=(\d{3})+$)/g, ',');
}
