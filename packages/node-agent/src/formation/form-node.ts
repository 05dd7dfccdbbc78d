import type { RaftLogs } from '@stor/control-plane';
import { makeId, StorError } from '@stor/protocol';
import type { Files, Random } from '@stor/runtime';
import { isEtcd, type AgentConfig, type AgentSettings, type Formation } from '../config.ts';
import { storeIdentity } from '../core/store-choice.ts';
import { movedNote, readStoreNote, writeStoreNote } from '../store-note.ts';
import { forgetRaft, makeAnew, setRaftAside, useEmbedded } from './make-anew.ts';
import { askToJoin, clusterAt, type JoinHost } from './ask-to-join.ts';
import {
  endJoin,
  pendingJoin,
  readIdentity,
  writeIdentity,
  type NodeFolderIdentity,
} from './node-identity.ts';

/** What the command line wants of a node whose members are found at run time. */
export interface FormationWish {
  /** make a new cluster */
  bootstrap: boolean;
  /** enter one, by the nodes at these addresses; null: not asked for */
  join: { addresses: string[]; token: string; replace: boolean; discardStore: boolean } | null;
  /** make the cluster store anew on this node alone: from a backup, or from what this node has */
  anew?: { backup: string } | 'survivor' | null;
}

export interface FormationHost extends JoinHost {
  files: Files;
  /** the Raft log */
  logs: RaftLogs;
  random: Random;
  /** the name of a node that is given none */
  hostName: string;
}

const formatVersion = 1;

/**
 * The configuration of a node that finds its members at run time: who it is comes from its data
 * folder, or is made now, by a new cluster or by a join. Everything may be repeated: a node that has
 * an identity goes on with it and needs no token. Errors: INVALID_ARGUMENT, FOREIGN_DATA, and those of
 * a join.
 */
export async function formNode(
  settings: AgentSettings,
  wish: FormationWish,
  host: FormationHost,
): Promise<AgentConfig> {
  const { dataDir } = settings;
  const found = readIdentity(host.files, dataDir);
  const identity = await identityOf(found, settings, wish, host);
  const formation: Formation = {
    voters: identity.origin === 'first' ? [identity.nodeId] : [],
    storeId: identity.storeId ?? '',
    known: identity.known ?? [],
  };
  const { nodeName: _name, clusterName: _cluster, ...rest } = settings;
  return {
    ...rest,
    clusterId: identity.clusterId,
    clusterName: identity.clusterName ?? 'stor',
    nodeId: identity.nodeId,
    nodeName: identity.nodeName ?? host.hostName,
    members: [],
    formation,
    ...storeOf(settings, identity, host.files),
  };
}

/** What is given; else the store that the node is in, or was told of when it joined. */
function storeOf(
  { store, dataDir }: AgentSettings,
  identity: NodeFolderIdentity,
  files: Files,
): { store?: string } {
  const known = store ?? readStoreNote(files, dataDir)?.store ?? identity.store;
  return known === undefined ? {} : { store: known };
}

/** FAILED_PRECONDITION when another store was given than the cluster is in. */
function checkStore(given: string | undefined, store: string): void {
  if (given === undefined || storeIdentity(given) === storeIdentity(store)) return;
  throw new StorError(
    'FAILED_PRECONDITION',
    `the state of the cluster is in the store ${store}, not in ${given}: leave --store out, or name the same prefix`,
  );
}

async function identityOf(
  found: NodeFolderIdentity | null,
  settings: AgentSettings,
  wish: FormationWish,
  host: FormationHost,
): Promise<NodeFolderIdentity> {
  if (wish.anew) return makeAnew(found, settings, wish.anew, host);
  if (!found) return makeIdentity(settings, wish, host);
  if (wish.join?.discardStore) return joined(found, settings, wish.join, host);
  await checkSame(found, settings, wish, host);
  return found;
}

/** The folder is of this node and, as far as that can be told, of the cluster that was named. */
async function checkSame(
  found: NodeFolderIdentity,
  { dataDir, nodeName }: AgentSettings,
  { join }: FormationWish,
  host: FormationHost,
): Promise<void> {
  if (found.origin === undefined) {
    throw new StorError(
      'FOREIGN_DATA',
      `data folder ${dataDir} is of a node whose config file names all members: start it with that --config`,
    );
  }
  if (nodeName !== undefined && found.nodeName !== nodeName) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `the node of data folder ${dataDir} has the name ${found.nodeName ?? ''}, not ${nodeName}: a name is kept`,
    );
  }
  const other = join && (await clusterAt(host, join.addresses));
  if (other === null || other === found.clusterId) return;
  throw new StorError(
    'FOREIGN_DATA',
    `data folder ${dataDir} belongs to cluster ${found.clusterId}, and ${join?.addresses.join(', ') ?? ''} is of cluster ${other}: give another folder`,
  );
}

async function makeIdentity(
  settings: AgentSettings,
  wish: FormationWish,
  host: FormationHost,
): Promise<NodeFolderIdentity> {
  const { dataDir, nodeName = host.hostName, clusterName } = settings;
  if (wish.join) return joined(null, settings, wish.join, host);
  if (!wish.bootstrap) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `data folder ${dataDir} is new: give --bootstrap to make a cluster, or --join ADDRESS --token TOKEN to enter one`,
    );
  }
  if (isEtcd(settings.store)) {
    throw new StorError(
      'INVALID_ARGUMENT',
      'a new cluster is made with the embedded store: move it to etcd with "storctl cluster migrate-store", or name clusterId, nodeId and nodeName in a config file with etcd as the store',
    );
  }
  const identity: NodeFolderIdentity = {
    formatVersion,
    clusterId: makeId('c', host.random.bytes(8)),
    nodeId: makeId('n', host.random.bytes(8)),
    nodeName,
    clusterName,
    origin: 'first',
    storeId: '',
  };
  writeIdentity(host.files, dataDir, identity);
  host.logger.info({ clusterId: identity.clusterId, clusterName }, 'a new cluster is made');
  return identity;
}

/**
 * With `found`: the cluster store was made anew without this node. Its part of the old one is set
 * aside, and it joins under its own id, under which it has never voted in the new one.
 */
async function joined(
  found: NodeFolderIdentity | null,
  settings: AgentSettings,
  { addresses, token, replace }: NonNullable<FormationWish['join']>,
  host: FormationHost,
): Promise<NodeFolderIdentity> {
  const { files, random } = host;
  const { dataDir, listen, autoDisk } = settings;
  const nodeName = settings.nodeName ?? found?.nodeName ?? host.hostName;
  const { nodeId, nonce } = pendingJoin(files, dataDir, () => ({
    nodeId: found?.nodeId ?? makeId('n', random.bytes(8)),
    nonce: Buffer.from(random.bytes(16)).toString('hex'),
  }));
  const answer = await askToJoin(host, addresses, {
    token,
    nodeId,
    nonce,
    name: nodeName,
    address: `${listen.advertise ?? listen.host}:${listen.api}`,
    replace,
    neverVotes: !autoDisk,
    clusterId: found?.clusterId ?? '',
  });
  const store = answer.store ? answer.store : 'embedded';
  checkStore(settings.store, store);
  // refused until here: what is set aside now is of a store that is no more
  if (found) {
    setRaftAside(files, dataDir, host.clock.wallMs());
    useEmbedded(files, dataDir);
  }
  const { clusterId, clusterName, storeId, members } = answer;
  const identity: NodeFolderIdentity = {
    formatVersion,
    clusterId,
    nodeId,
    nodeName,
    clusterName,
    origin: 'joined',
    storeId,
    known: members,
    ...(store === 'embedded' ? {} : { store }),
  };
  const note = readStoreNote(files, dataDir);
  if (note && store !== 'embedded') writeStoreNote(files, dataDir, movedNote(note, store));
  writeIdentity(files, dataDir, identity, { keepsJoin: true });
  if (found) forgetRaft(files, dataDir);
  endJoin(files, dataDir);
  host.logger.info({ clusterId, clusterName, nodeId }, 'joined the cluster');
  return identity;
}
