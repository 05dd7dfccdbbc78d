import {
  embeddedStore,
  FreezableStore,
  StoreMove,
  StoreMoveWatch,
  openEtcdKeys,
  readOrigin,
  type ClusterStore,
  type FreezeRecord,
  type MoveTls,
  type OpenTarget,
} from '@stor/control-plane';
import { StorError } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import { isEtcd, type AgentConfig } from './config.ts';
import { chooseStore, storeIdentity } from './core/store-choice.ts';
import type { DataFolder } from './data-folder.ts';
import { movedNote } from './store-note.ts';
import type { NextMember } from './next-member.ts';

interface NodeStoreParts {
  config: AgentConfig;
  folder: DataFolder;
  /** its member of an embedded store that the cluster moves to */
  next: NextMember;
  /** @default openEtcdKeys */
  openKeys?: typeof openEtcdKeys | undefined;
  clock: Clock;
  random: Random;
  logger: Logger;
}

/** Which cluster store this node uses, and how its cluster comes to use another one. */
export class NodeStore {
  readonly #parts: NodeStoreParts;

  constructor(parts: NodeStoreParts) {
    this.#parts = parts;
  }

  /**
   * The store to open. FAILED_PRECONDITION when the config names one that is not that of the node's
   * cluster: one that does not know the volumes would grant epochs again that were granted (I2).
   */
  async choose(): Promise<{ address: string; tls: MoveTls | undefined }> {
    const { config, folder, logger } = this.#parts;
    const wanted = config.store ?? 'embedded';
    const note = folder.storeNote();
    const choice = chooseStore(note, wanted);
    const { address } = choice;
    if (choice.type === 'verify') await this.#verify(address, choice.known);
    else if (choice.isOld) {
      logger.warn({ config: wanted, used: address }, 'the cluster has moved: correct the config');
    } else if (note?.store !== address) folder.noteStore({ ...note, store: address });
    return { address, tls: filesOf(config) ?? folder.storeNote()?.tls };
  }

  /** For everybody but the move itself: a store that lets nobody write while it is left. */
  guarded(store: ClusterStore): ClusterStore {
    return new FreezableStore(store);
  }

  /** Calls `moved` once, after it was noted, when the cluster is in another store. */
  watch(store: ClusterStore, moved: () => void): StoreMoveWatch {
    return new StoreMoveWatch({
      ...this.#parts,
      store,
      openTarget: this.#openTarget,
      begunMove: () => this.#parts.next.begun(),
      dropMove: (id) => this.#parts.next.drop(id),
      moved: (freeze) => {
        this.#note(freeze);
        moved();
      },
    });
  }

  /** Moves the cluster from `store`, which is at `address`, or gives that up (`abort`). */
  async move(
    store: ClusterStore,
    address: string,
    request: { to: string; tls?: MoveTls | undefined; abort: boolean },
  ): Promise<{ keys: number }> {
    const { config } = this.#parts;
    const from = storeIdentity(address);
    const move = new StoreMove({
      ...this.#parts,
      clusterId: config.clusterId,
      from,
      old: store,
      openTarget: this.#openTarget,
    });
    if (request.abort) {
      await move.abort();
      return { keys: 0 };
    }
    const { to } = request;
    if (to !== embeddedStore && !to.startsWith('etcd://')) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `a cluster can be moved to embedded, or to etcd://HOST:PORT[,HOST:PORT...][/PREFIX], not to ${JSON.stringify(to)}`,
      );
    }
    if (storeIdentity(to) !== from) return move.run(to, request.tls);
    // repeated after the answer was lost
    const isThere = to === address && (await readOrigin(store))?.phase === 'complete';
    if (isThere) return { keys: (await store.list('')).items.length };
    throw new StorError(
      'INVALID_ARGUMENT',
      to === embeddedStore
        ? 'the cluster store is the embedded one already'
        : `${to} has the prefix of the store in use: give another one, so that agents can tell them apart`,
    );
  }

  readonly #openTarget: OpenTarget = async ({ to, tls, id, members }) => {
    const { next, openKeys = openEtcdKeys } = this.#parts;
    if (to !== embeddedStore) return openKeys({ ...this.#parts, ...this.#etcd(to, tls) });
    if (id === undefined || !members) {
      throw new StorError('INTERNAL', 'the members of the embedded store are not chosen');
    }
    const { get, list, transact } = methodsOf(await next.open({ id, members }));
    return { get, list, transact, close: () => {} };
  };

  #etcd(address: string, tls: MoveTls | undefined): { address: string; tls: MoveTls | undefined } {
    return { address, tls: tls ?? filesOf(this.#parts.config) };
  }

  #note({ to, tls }: Pick<FreezeRecord, 'to' | 'tls'>): void {
    const { folder, config } = this.#parts;
    const old = folder.storeNote() ?? { store: config.store ?? embeddedStore };
    const { entering } = old;
    folder.noteStore({ ...movedNote(old, to), tls, ...(entering ? { entering } : {}) });
  }

  /** The config names another store than the known one: has the cluster moved to it? */
  async #verify(address: string, known: string): Promise<void> {
    const { config } = this.#parts;
    const isRight = async (): Promise<boolean> => {
      if (!isEtcd(address)) return false;
      const target = await this.#openTarget({ to: address, tls: undefined });
      try {
        const origin = await readOrigin(target);
        const { clusterId } = config;
        return (
          origin?.phase === 'complete' &&
          origin.clusterId === clusterId &&
          origin.from === storeIdentity(known)
        );
      } finally {
        target.close();
      }
    };
    if (address === embeddedStore) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `the cluster of this node is in the store ${known}, the config says embedded. If the cluster has not moved, correct the config, and move it with "storctl cluster migrate-store --to embedded". If it has moved while this node was down: start the agent with ${known}, and it follows; or, when that etcd is gone, with --join ADDRESS --token TOKEN --discard-store`,
      );
    }
    if (!(await isRight())) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `the cluster of this node is in the store ${known}, the config says ${address}, and the cluster was not moved there: start the agent with the former, and move the cluster with "storctl cluster migrate-store --to ${address}"`,
      );
    }
    this.#note({ to: address, tls: undefined });
  }
}

/** By which files this node gets into etcd, as its config says. */
function filesOf({ etcdTls, etcdPasswordFile: passwordFile }: AgentConfig): MoveTls | undefined {
  if (!etcdTls && passwordFile === undefined) return undefined;
  return { ...etcdTls, ...(passwordFile === undefined ? {} : { passwordFile }) };
}

function methodsOf(store: ClusterStore): Pick<ClusterStore, 'get' | 'list' | 'transact'> {
  return {
    get: store.get.bind(store),
    list: store.list.bind(store),
    transact: store.transact.bind(store),
  };
}
