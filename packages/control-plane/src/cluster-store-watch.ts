import { StorError } from '@stor/protocol';
import type { ClusterStoreMachine } from './cluster-store-machine.ts';
import type { KeyValue, WatchEvent } from './cluster-store.ts';

/** A copy, because the state machine keeps the original. */
export function copyOfItem(item: Readonly<KeyValue>): KeyValue {
  return { ...item, value: new Uint8Array(item.value) };
}

/**
 * The body of `ClusterStore.watch`, from what this member has applied. It reads the history at the
 * reader's pace and holds nothing of its own, so a reader that stops costs nothing. Ends when
 * either signal aborts.
 */
export async function* watchChanges(
  machine: ClusterStoreMachine,
  prefix: string,
  afterRevision: number,
  signal: AbortSignal,
  closed: AbortSignal,
): AsyncGenerator<WatchEvent[]> {
  let after = afterRevision;
  while (!signal.aborted && !closed.aborted) {
    const { droppedRevision } = machine.state;
    if (after < droppedRevision) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `changes after revision ${after} are no longer kept (they start after ${droppedRevision}): ` +
          'list again and watch from there',
      );
    }
    const batch = machine.state.nextChangeAfter(after);
    if (!batch) {
      await nextChange(machine, signal, closed);
      continue;
    }
    after = batch.revision;
    const events = batch.events.filter((event) => event.key.startsWith(prefix));
    if (events.length > 0) yield events.map(copyOfEvent);
  }
}

function copyOfEvent(event: WatchEvent): WatchEvent {
  return { ...event, value: event.value && new Uint8Array(event.value) };
}

/** Resolves when the machine has changed or a signal has aborted. */
function nextChange(
  machine: ClusterStoreMachine,
  signal: AbortSignal,
  closed: AbortSignal,
): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      undo();
      signal.removeEventListener('abort', done);
      closed.removeEventListener('abort', done);
      resolve();
    };
    const undo = machine.onChange(done);
    signal.addEventListener('abort', done);
    closed.addEventListener('abort', done);
  });
}
