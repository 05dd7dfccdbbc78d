import { StorError, hasCode } from '@stor/protocol';
import type { Rebuild, Volume } from '@stor/protocol';
import type { CommandContext } from './command-context.ts';
import { awaitedText } from './core/rebuild-text.ts';
import { pause } from './pause.ts';
import { StatusLine } from './status-line.ts';

/** Time between two looks at a volume (ms). */
const lookEveryMs = 500;
/** A control plane that does not answer for longer ends the wait (ms): elections take less. */
const maxSilenceMs = 60_000;

/**
 * Looks at a volume until `isDone`, and says on stderr what it waits for. The change goes on
 * without it: an interruption or a timeout says so.
 */
export async function waitForVolume(
  context: CommandContext,
  volume: Volume,
  isDone: (volume: Volume) => boolean,
): Promise<Volume> {
  const { api, io, print, call, clock, signal } = context;
  const { id, name } = volume.metadata;
  context.goesOn(`the change goes on by itself: "storctl rebuild ls ${name}" shows how far it is`);
  const line = new StatusLine(io, print.quiet);
  let answeredMs = clock.monotonicMs();
  try {
    for (;;) {
      try {
        const seen = await api.getVolume({ name: id }, call);
        answeredMs = clock.monotonicMs();
        if (isDone(seen)) return seen;
        show(line, seen, await rebuildsOf(context, id));
      } catch (error) {
        if (!hasCode(error, 'UNAVAILABLE', 'TIMEOUT') || signal.aborted) throw error;
        if (clock.monotonicMs() - answeredMs > maxSilenceMs) throw givenUp(name, error);
        line.show(`waiting: ${error.message}`, 'unavailable');
      }
      await pause(clock, lookEveryMs, signal);
    }
  } finally {
    line.clear();
  }
}

/** They only say more about the wait, so a node that cannot tell them does not end it. */
async function rebuildsOf({ api, call, signal }: CommandContext, id: string): Promise<Rebuild[]> {
  try {
    return (await api.listRebuilds({ name: id }, call)).rebuilds;
  } catch (error) {
    if (signal.aborted) throw error;
    return [];
  }
}

function givenUp(name: string, error: StorError): StorError {
  return new StorError(
    'UNAVAILABLE',
    `volume ${name} was changed, but how far that is cannot be said: ${error.message}`,
    { cause: error },
  );
}

function show(line: StatusLine, volume: Volume, rebuilds: readonly Rebuild[]): void {
  const lines = rebuilds.map(awaitedText);
  const keys = rebuilds.map(({ node, state, message }) => `${node} ${state} ${message}`);
  const named = new Set(rebuilds.map(({ replicaId }) => replicaId));
  for (const replica of volume.status.replicas) {
    if (named.has(replica.id)) continue;
    if (replica.state === 'in-sync' && !replica.leaving) continue;
    const text = replica.leaving
      ? `${replica.node} to leave`
      : `${replica.node} (${replica.state})`;
    lines.push(text);
    keys.push(text);
  }
  if (lines.length === 0) lines.push('replicas to be placed');
  line.show(`waiting for ${lines.join('; ')}`, keys.join('; ') || 'placing');
}
