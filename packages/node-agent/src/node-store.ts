import {
  FreezableStore,
  StoreMove,
  StoreMoveWatch,
  openEtcdKeys,
  readOrigin,
  type ClusterStore,
  type FreezeRecord,
  type MoveTls,
} from '@stor/control-plane';
import { StorError } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import { isEtcd, type AgentConfig } from './config.ts';
import { chooseStore, storeIdentity } from './core/store-choice.ts';
import type { DataFolder } from './data-folder.ts';

interface NodeStoreParts {
  config: AgentConfig;
  folder: DataFolder;
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
    return { address, tls: config.etcdTls ?? folder.storeNote()?.tls };
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
      openTarget: (to, tls) => this.#openTarget(to, tls),
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
      openTarget: (to, tls) => this.#openTarget(to, tls),
    });
    if (request.abort) {
      await move.abort();
      return { keys: 0 };
    }
    if (!request.to.startsWith('etcd://')) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `a cluster can be moved to etcd://HOST:PORT[,HOST:PORT...][/PREFIX] only, not to ${JSON.stringify(request.to)}`,
      );
    }
    if (storeIdentity(request.to) === from) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `${request.to} has the prefix of the store in use: give another one, so that agents can tell them apart`,
      );
    }
    return move.run(request.to, request.tls);
  }

  #openTarget(address: string, tls: MoveTls | undefined): ReturnType<typeof openEtcdKeys> {
    const { config, clock, random, logger } = this.#parts;
    return openEtcdKeys({ address, tls: tls ?? config.etcdTls, clock, random, logger });
  }

  #note({ to, tls }: Pick<FreezeRecord, 'to' | 'tls'>): void {
    const { folder, config } = this.#parts;
    const old = folder.storeNote();
    const left = storeIdentity(old?.store ?? config.store ?? 'embedded');
    folder.noteStore({ store: to, tls, movedFrom: [...(old?.movedFrom ?? []), left] });
  }

  /** The config names another store than the known one: has the cluster moved to it? */
  async #verify(address: string, known: string): Promise<void> {
    const { config } = this.#parts;
    const isRight = async (): Promise<boolean> => {
      if (!isEtcd(address)) return false;
      const target = await this.#openTarget(address, undefined);
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
    if (!(await isRight())) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `the cluster of this node is in the store ${known}, the config says ${address}, and the cluster was not moved there: start the agent with the former, and move the cluster with "storctl cluster migrate-store --to ${address}"`,
      );
    }
    this.#note({ to: address, tls: undefined });
  }
}
