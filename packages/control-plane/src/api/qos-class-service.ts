import { changedClasses, StorError } from '@stor/protocol';
import type { QosClass, QosClassChange } from '@stor/protocol';
import type { Logger } from '@stor/runtime';
import type { ClusterStore } from '../cluster-store.ts';
import { qosClassesOf, withClasses } from '../core/qos/qos-classes.ts';
import { readState } from '../resources/find.ts';
import { qosClassesKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import { readSoon } from './read-soon.ts';

/** Lost races in a row after which a caller is told to try again. */
const maxConflicts = 20;

/** The calls of the API about how clients and background work share lanes. */
export class QosClassService {
  readonly #store: ClusterStore;
  readonly #logger: Logger;

  constructor(options: { store: ClusterStore; logger: Logger }) {
    this.#store = options.store;
    this.#logger = options.logger;
  }

  async list(): Promise<{ classes: QosClass[] }> {
    const state = await readSoon((options) => readState(this.#store, options));
    return { classes: qosClassesOf(state) };
  }

  /** See StorApi.setQosClasses. */
  async set(changes: readonly QosClassChange[]): Promise<{ classes: QosClass[] }> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await readState(this.#store);
      const classes = changedClasses(qosClassesOf(state), changes);
      const value = withClasses(state.qosClasses?.value ?? null, classes);
      const modRevision = state.qosClasses?.modRevision ?? 0;
      const { succeeded } = await this.#store.transact({
        compare: [{ key: qosClassesKey, modRevision }],
        operations: [{ type: 'put', key: qosClassesKey, value: encodeRecord(value) }],
      });
      if (!succeeded) continue;
      this.#logger.info({ classes: changes }, 'QoS classes changed');
      return { classes };
    }
    throw new StorError('CONFLICT', 'the QoS classes change too often: try again');
  }
}
