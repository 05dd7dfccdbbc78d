import { StorError } from '@stor/protocol';
import type { WatchedObjects, WatchEvent, WatchKind } from '@stor/protocol';
import { stringify } from 'yaml';
import type { CommandContext } from './command-context.ts';
import { ExitStatus } from './exit-status.ts';
import { formatTime } from './resource-views.ts';

/** A screen is drawn again at most this often (ms). */
const drawEveryMs = 200;
const interruptedStatus = 130;

/** What is watched, and how people see it. */
export interface WatchView<Kind extends WatchKind> {
  kind: Kind;
  /** only this object (name or id) */
  name?: string;
  wanted?: (object: WatchedObjects[Kind]) => boolean;
  /** one line about an object, without its kind and name */
  line: (object: WatchedObjects[Kind]) => string;
  /** a table or sheet of all of them, as lines */
  draw: (objects: WatchedObjects[Kind][]) => string;
}

type Objects<Kind extends WatchKind> = Map<string, WatchedObjects[Kind]>;

/** A change that the view is about; null: all that is there has been told. */
interface Told<Kind extends WatchKind> {
  change: { type: string; id: string; object: WatchedObjects[Kind] } | null;
  revision: number;
}

interface Display<Kind extends WatchKind> {
  show(told: Told<Kind>, objects: Objects<Kind>): void;
  notice(text: string): void;
  end(): void;
}

/**
 * Shows objects and what becomes of them until Ctrl-C (exit 130) or `--timeout` (124): redrawn on a
 * terminal, else a line or document for each change. A control plane that is away is said and waited for.
 */
export async function watchObjects<Kind extends WatchKind>(
  context: CommandContext,
  view: WatchView<Kind>,
): Promise<void> {
  const { api, io, print, signal } = context;
  const objects: Objects<Kind> = new Map();
  const display =
    io.columns && print.forPeople ? screen(context, view, objects, io.columns) : log(context, view);
  const watch = api.watch({
    kinds: [view.kind],
    signal,
    ...(view.name === undefined ? {} : { name: view.name }),
    onTrouble: (error) => {
      display.notice(error?.message ?? '');
    },
  });
  try {
    for await (const event of watch) {
      const told = toldOf(event, view);
      if (!told) continue;
      if (told.change?.type === 'DELETED') objects.delete(told.change.id);
      else if (told.change) objects.set(told.change.id, told.change.object);
      display.show(told, objects);
    }
  } finally {
    display.end();
  }
  // it ends by the signal only: that of Ctrl-C, or of a timeout
  if (io.signal?.aborted === true) throw new ExitStatus(interruptedStatus);
  throw StorError.from(signal.reason);
}

function toldOf<Kind extends WatchKind>(
  event: WatchEvent,
  { kind, wanted }: WatchView<Kind>,
): Told<Kind> | null {
  const { revision } = event;
  if (event.type === 'SYNCED') return { change: null, revision };
  if (event.type === 'BOOKMARK' || event.kind !== kind) return null;
  const { type, id } = event;
  const object = event.object as WatchedObjects[Kind];
  return wanted && !wanted(object) ? null : { change: { type, id, object }, revision };
}

/** Draws each picture over the one before. */
function screen<Kind extends WatchKind>(
  { io, clock }: CommandContext,
  { draw }: WatchView<Kind>,
  objects: Objects<Kind>,
  columns: () => number,
): Display<Kind> {
  let drawnLines = 0;
  let notice = '';
  let isSynced = false;
  let cancel: (() => void) | null = null;
  const paint = (): void => {
    cancel = null;
    const sorted = [...objects.values()].sort((a, b) =>
      a.metadata.name < b.metadata.name ? -1 : 1,
    );
    const lines = [
      `${formatTime(clock.wallMs())}, Ctrl-C ends`,
      ...(notice === '' ? [] : [`not up to date: ${notice}`]),
      ...(isSynced ? draw(sorted).trimEnd().split('\n') : []),
    ].map((line) => line.slice(0, Math.max(1, columns() - 1)));
    const up = drawnLines === 0 ? '' : `\u001b[${drawnLines}A\u001b[J`;
    io.stdout.write(`${up}${lines.join('\n')}\n`);
    drawnLines = lines.length;
  };
  const soon = (): void => {
    cancel ??= clock.after(drawEveryMs, paint);
  };
  return {
    show: ({ change }) => {
      if (change) {
        if (isSynced) soon();
        return;
      }
      isSynced = true;
      cancel?.();
      paint();
    },
    notice: (text) => {
      notice = text;
      soon();
    },
    end: () => {
      cancel?.();
    },
  };
}

/** Writes each change: a line for people, else one document after another. */
function log<Kind extends WatchKind>(
  { print, io, clock }: CommandContext,
  { kind, line, draw }: WatchView<Kind>,
): Display<Kind> {
  let isSynced = false;
  const forPeople = ({ change }: Told<Kind>, objects: Objects<Kind>): void => {
    if (!change) {
      isSynced = true;
      io.stdout.write(draw([...objects.values()]));
    } else if (isSynced) {
      const { type, object } = change;
      const text = type === 'DELETED' ? '' : `: ${line(object)}`;
      const said = `${formatTime(clock.wallMs())} ${type} ${kind} ${object.metadata.name}${text}`;
      // a name from elsewhere must not move the cursor
      io.stdout.write(`${said.replaceAll(/\p{Cc}/gu, ' ')}\n`);
    }
  };
  const forPrograms = ({ change, revision }: Told<Kind>): void => {
    const isDocument = (print.format === 'json' || print.format === 'yaml') && !print.quiet;
    if (!isDocument) {
      const { metadata } = change?.object ?? {};
      if (metadata) io.stdout.write(`${print.quiet ? metadata.id : metadata.name}\n`);
      return;
    }
    const document = change ? { ...change, kind, revision } : { type: 'SYNCED', revision };
    io.stdout.write(
      print.format === 'json'
        ? `${JSON.stringify(document)}\n`
        : `---\n${stringify(document, { aliasDuplicateObjects: false })}`,
    );
  };
  return {
    show: print.forPeople ? forPeople : forPrograms,
    notice: (text) => {
      if (text !== '') io.stderr.write(`not up to date: ${text}\n`);
    },
    end: () => {},
  };
}

/** What every verb with `--watch` says of it. */
export const watchHelp = `
With --watch it goes on showing, until Ctrl-C (exit 130) or --timeout (exit 124): drawn again on a terminal,
else a line for each change (with -o json or yaml a document: ADDED, MODIFIED, DELETED, and SYNCED once all
that is there has been told). It shows what the records of the cluster say: what only a primary knows
(SERVING, USED, OWN) is left out.
`;
export const watchFlag = '-w, --watch';
export const watchText = 'go on showing changes, until Ctrl-C';
