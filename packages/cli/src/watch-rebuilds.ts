import { hasCode } from '@stor/protocol';
import type { Rebuild } from '@stor/protocol';
import type { CommandContext } from './command-context.ts';
import { rebuildLine } from './core/rebuild-text.ts';
import { ExitStatus } from './exit-status.ts';
import { pause } from './pause.ts';
import { rebuildColumns, rebuildId, sortRebuilds } from './rebuild-views.ts';
import { formatTime } from './resource-views.ts';

/** Time between two looks (ms). */
const lookEveryMs = 1_000;
const interruptedStatus = 130;

/** What is on the screen after one look. */
interface Frame {
  rebuilds: readonly Rebuild[];
  /** why this is not what the cluster says now; '' when it is */
  notice: string;
}

/**
 * Shows the rebuilds until Ctrl-C (exit 130) or `--timeout` (124): redrawn on a terminal, else a
 * line or document whenever something has changed. A control plane that is away for a while is said
 * and waited for; other errors end it.
 */
export async function watchRebuilds(context: CommandContext, name: string): Promise<void> {
  const { io, clock, signal } = context;
  const show = io.columns && context.print.forPeople ? screen(context, io.columns) : log(context);
  let last: readonly Rebuild[] = [];
  try {
    for (;;) {
      const frame = await look(context, name, last);
      last = frame.rebuilds;
      show(frame);
      await pause(clock, lookEveryMs, signal);
    }
  } catch (error) {
    // Ctrl-C is how a watch ends: there is nothing half done to tell of.
    if (io.signal?.aborted === true) throw new ExitStatus(interruptedStatus);
    throw error;
  }
}

async function look(
  { api, call, signal }: CommandContext,
  name: string,
  last: readonly Rebuild[],
): Promise<Frame> {
  try {
    const { rebuilds } = await api.listRebuilds({ name }, call);
    return { rebuilds: sortRebuilds(rebuilds), notice: '' };
  } catch (error) {
    if (signal.aborted || !hasCode(error, 'UNAVAILABLE', 'TIMEOUT')) throw error;
    return { rebuilds: last, notice: error.message };
  }
}

/** Draws each frame over the one before. */
function screen({ print, io, clock }: CommandContext, columns: () => number) {
  let drawnLines = 0;
  return ({ rebuilds, notice }: Frame): void => {
    const text: string[] = [];
    print.into({ write: (part) => text.push(part) }).rows(rebuilds, rebuildColumns, rebuildId);
    const table =
      rebuilds.length === 0 ? 'No replica is being made equal.' : text.join('').trimEnd();
    const lines = [
      `${formatTime(clock.wallMs())}, Ctrl-C ends`,
      ...(notice === '' ? [] : [`not up to date: ${notice}`]),
      ...table.split('\n'),
    ].map((line) => line.slice(0, Math.max(1, columns() - 1)));
    const up = drawnLines === 0 ? '' : `\u001b[${drawnLines}A\u001b[J`;
    io.stdout.write(`${up}${lines.join('\n')}\n`);
    drawnLines = lines.length;
  };
}

/** Writes what has changed: lines for people, else whole documents, one after another. */
function log({ print, io, clock }: CommandContext) {
  let shown: Map<string, string> | null = null;
  const names = new Map<string, string>();
  let lastNotice = '';
  return ({ rebuilds, notice }: Frame): void => {
    if (notice !== '' && notice !== lastNotice) io.stderr.write(`not up to date: ${notice}\n`);
    lastNotice = notice;
    const now = new Map(
      rebuilds.map((rebuild) => [rebuildId(rebuild), `${rebuild.volume} ${rebuildLine(rebuild)}`]),
    );
    for (const rebuild of rebuilds) {
      names.set(rebuildId(rebuild), `${rebuild.volume} ${rebuild.node}`);
    }
    const before = shown;
    shown = now;
    if (before !== null && sameText(before, now)) return;
    if (!print.forPeople) {
      writeDocument({ print, io }, rebuilds);
      return;
    }
    const time = formatTime(clock.wallMs());
    for (const [id, line] of now) {
      if (before?.get(id) !== line) io.stdout.write(`${time} ${line}\n`);
    }
    for (const id of before?.keys() ?? []) {
      if (!now.has(id))
        io.stdout.write(`${time} ${names.get(id) ?? id} is done, or was called off\n`);
    }
    if (now.size === 0 && before === null) {
      io.stdout.write(`${time} no replica is being made equal\n`);
    }
  };
}

/** JSON on one line and YAML as one document of a stream, so that a reader can tell them apart. */
function writeDocument(
  { print, io }: Pick<CommandContext, 'print' | 'io'>,
  rebuilds: readonly Rebuild[],
): void {
  if (print.format === 'json' && !print.quiet) {
    io.stdout.write(`${JSON.stringify(rebuilds)}\n`);
    return;
  }
  if (print.format === 'yaml' && !print.quiet) io.stdout.write('---\n');
  print.rows(rebuilds, rebuildColumns, rebuildId);
}

function sameText(a: ReadonlyMap<string, string>, b: ReadonlyMap<string, string>): boolean {
  return a.size === b.size && [...a].every(([key, text]) => b.get(key) === text);
}
