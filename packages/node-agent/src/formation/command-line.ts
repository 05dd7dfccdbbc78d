import type { Command } from 'commander';
import { resolve } from 'node:path';
import { StorError } from '@stor/protocol';
import { checkAgentSettings, loadConfigFile, namesNode, type AgentSettings } from '../config.ts';
import type { FormationWish } from './form-node.ts';

/** The defaults of DESIGN section 8: the API, and behind it HTTP, replication and NBD. */
const firstPort = 17_110;
/** Lanes whose ports fit in a node's ten. */
const maxDefaultLanes = 4;

interface Flags {
  config?: string;
  bootstrap?: true;
  join?: string;
  token?: string;
  replace?: true;
  discardStore?: true;
  restore?: string;
  forceNewCluster?: true;
  dataDir?: string;
  name?: string;
  clusterName?: string;
  listen?: string;
  advertise?: string;
  port?: string;
  lanes?: string;
  label?: string[];
  computeOnly?: true;
  insecureListen?: true;
  logLevel?: string;
  pidFile?: string;
  dockerPlugin?: string | true;
  store?: string;
  etcdCa?: string;
  etcdCert?: string;
  etcdKey?: string;
  etcdPasswordFile?: string;
}

/** Those that go with a config file that says who the node is. */
const fixedFlags = ['config', 'store', 'etcdCa', 'etcdCert', 'etcdKey', 'etcdPasswordFile'];

/** What is to be started: a config file that names all members, or a node that finds them. */
export type CommandLine =
  | { kind: 'fixed'; path: string; file: unknown }
  | { kind: 'formed'; settings: AgentSettings; wish: FormationWish };

export function addAgentOptions(program: Command): Command {
  const collect = (value: string, before: string[] = []): string[] => [...before, value];
  return program
    .option('--config <path>', 'config file (YAML); flags win over it')
    .option('--bootstrap', 'make a new cluster in an empty data folder')
    .option('--join <address>', 'enter a cluster, by HOST:PORT[,HOST:PORT...] of its nodes')
    .option('--token <token>', 'with --join: from "storctl token create" (or STOR_JOIN_TOKEN)')
    .option('--replace', 'with --join: take the place of a node of this name that is down for good')
    .option(
      '--discard-store',
      'with --join: the cluster store was made anew without this node, which has the old one',
    )
    .option('--restore <file>', 'make the cluster store anew from a backup, with this node alone')
    .option(
      '--force-new-cluster',
      'the majority of voters is lost for ever: go on with what this node has, alone',
    )
    .option('--data-dir <path>', 'folder of this node')
    .option('--name <name>', 'name of this node (at first its host name)')
    .option('--cluster-name <name>', 'with --bootstrap: name of the cluster (at first stor)')
    .option('--listen <host>', 'address to listen on (at first 127.0.0.1)')
    .option('--advertise <host>', 'address that others reach it by (at first that of --listen)')
    .option(
      '--port <port>',
      `first of its ports: API, HTTP, replication, NBD; ten with several lanes (at first ${firstPort})`,
    )
    .option(
      '--lanes <count>',
      'data-path threads, 1 to 4: see docs/operating/lanes.md (at first 1)',
    )
    .option(
      '--label <key=value>',
      'label at the first start, such as zone=b; may be repeated',
      collect,
    )
    .option('--compute-only', 'no disk is made, and it becomes no voter by itself')
    .option('--insecure-listen', 'listen beyond loopback although nothing is encrypted yet')
    .option('--log-level <level>', 'debug, info, warn or error')
    .option('--pid-file <path>', 'where to write the process id')
    .option(
      '--docker-plugin [name]',
      'serve the Docker Engine of this host: volumes of the driver NAME (at first stor)',
    )
    .option(
      '--store <address>',
      'embedded, or etcd://[USER@]HOST:PORT[,HOST:PORT...][/PREFIX] (or `store:` in the config)',
    )
    .option('--etcd-ca <path>', 'PEM file: the authority of the etcd servers; turns TLS on')
    .option('--etcd-cert <path>', 'PEM file: the certificate of this node for etcd')
    .option('--etcd-key <path>', 'PEM file: the key of --etcd-cert')
    .option('--etcd-password-file <path>', 'the password of the user that --store names');
}

/** INVALID_ARGUMENT says which flags do not go together, or what is wrong with one. */
export function readCommandLine(
  flags: Flags,
  env: Readonly<Record<string, string | undefined>>,
): CommandLine {
  const { config } = flags;
  const file = config === undefined ? {} : loadConfigFile(config);
  if (config !== undefined && namesNode(file)) {
    const other = Object.keys(flags).find((flag) => !fixedFlags.includes(flag));
    const whole = { ...(file as object), ...storeOf(flags) };
    if (other === undefined) return { kind: 'fixed', path: config, file: whole };
    throw usage(`config file ${config} says who the node is: ${flagOf(other)} does not go with it`);
  }
  const wish = wishOf(flags, env);
  const where = config === undefined ? 'command line' : `config file ${config} with the flags`;
  return { kind: 'formed', settings: checkAgentSettings(merged(file, flags), where), wish };
}

function wishOf(
  { bootstrap, join, token, replace, discardStore, restore, forceNewCluster }: Flags,
  env: Readonly<Record<string, string | undefined>>,
): FormationWish {
  const ways = [bootstrap, join, restore, forceNewCluster].filter((way) => way !== undefined);
  if (ways.length > 1) {
    throw usage('--bootstrap, --join, --restore and --force-new-cluster: give one of them');
  }
  const anew =
    restore === undefined ? forceNewCluster && ('survivor' as const) : { backup: resolve(restore) };
  if (join === undefined) {
    if (discardStore) throw usage('--discard-store goes with --join');
    if (token !== undefined) throw usage('--token goes with --join');
    if (replace) throw usage('--replace goes with --join');
    return { bootstrap: bootstrap === true, join: null, anew: anew ?? null };
  }
  const addresses = join.split(',').filter((address) => address !== '');
  const bad = addresses.find((address) => !/^.+:[0-9]{1,5}$/.test(address));
  if (bad !== undefined || addresses.length === 0) {
    throw usage(`--join ${JSON.stringify(join)} is not valid: give HOST:PORT of a node`);
  }
  // a restart needs none; a node that joins without is refused by the cluster
  const given = token ?? env['STOR_JOIN_TOKEN'] ?? '';
  return {
    bootstrap: false,
    join: {
      addresses,
      token: given,
      replace: replace === true,
      discardStore: discardStore === true,
    },
  };
}

function merged(file: unknown, flags: Flags): unknown {
  if (typeof file !== 'object' || file === null) return file;
  const known = file as Record<string, unknown>;
  const lanes = laneCount(flags);
  const count = lanes ?? (typeof known['lanes'] === 'number' ? known['lanes'] : 1);
  const listen = listenOf(
    known['listen'] as Record<string, unknown> | undefined,
    flags,
    Math.min(count, maxDefaultLanes),
  );
  const { dataDir, name, clusterName, computeOnly, insecureListen, logLevel, pidFile } = flags;
  const labels = flags.label && labelsOf(flags.label);
  return {
    ...known,
    ...storeOf(flags),
    listen,
    ...(dataDir === undefined ? {} : { dataDir: resolve(dataDir) }),
    ...(name === undefined ? {} : { nodeName: name }),
    ...(clusterName === undefined ? {} : { clusterName }),
    ...(lanes === undefined ? {} : { lanes }),
    ...(computeOnly ? { autoDisk: false } : {}),
    ...(insecureListen ? { insecureListen } : {}),
    ...(logLevel === undefined ? {} : { logLevel }),
    ...(pidFile === undefined ? {} : { pidFile: resolve(pidFile) }),
    ...dockerOf(known['docker'], flags),
    ...(labels === undefined ? {} : { labels }),
  };
}

/** The flag alone turns the plug-in on, with what the file says of it. */
function dockerOf(known: unknown, { dockerPlugin }: Flags): Record<string, unknown> {
  if (dockerPlugin === undefined) return {};
  const docker = typeof known === 'object' && known !== null ? known : {};
  return { docker: dockerPlugin === true ? docker : { ...docker, name: dockerPlugin } };
}

/** What the command line says of the store, as the config file would. */
function storeOf({
  store,
  etcdCa,
  etcdCert,
  etcdKey,
  etcdPasswordFile,
}: Flags): Record<string, unknown> {
  if (etcdCa === undefined && (etcdCert ?? etcdKey) !== undefined) {
    throw usage('--etcd-cert and --etcd-key need --etcd-ca');
  }
  return {
    ...(store === undefined ? {} : { store }),
    ...(etcdPasswordFile === undefined ? {} : { etcdPasswordFile: resolve(etcdPasswordFile) }),
    ...(etcdCa === undefined ? {} : { etcdTls: { ca: etcdCa, cert: etcdCert, key: etcdKey } }),
  };
}

function listenOf(
  known: Record<string, unknown> | undefined,
  { listen, advertise, port }: Flags,
  lanes: number,
): Record<string, unknown> {
  const first = port === undefined ? firstPort : Number(port);
  if (!(Number.isInteger(first) && first >= 1 && first <= 65_532)) {
    throw usage(`--port ${JSON.stringify(port)} is not valid: 1 to 65532, and three more follow`);
  }
  const ports = { api: first, http: first + 1, ...lanePortsFrom(first, lanes) };
  return {
    ...ports,
    ...known,
    ...(port === undefined ? {} : ports),
    ...(listen === undefined ? {} : { host: listen }),
    ...(advertise === undefined ? {} : { advertise }),
  };
}

/** The ports of the lanes in a node's ten: NBD from +3, replication +2, and +7 to +9 of lanes 1 to 3. */
function lanePortsFrom(first: number, lanes: number): { peers: number[]; nbd: number[] } {
  const each = Array.from({ length: lanes }, (_, lane) => lane);
  return {
    peers: each.map((lane) => first + (lane === 0 ? 2 : 6 + lane)),
    nbd: each.map((lane) => first + 3 + lane),
  };
}

function laneCount({ lanes }: Pick<Flags, 'lanes'>): number | undefined {
  if (lanes === undefined) return undefined;
  const count = Number(lanes);
  if (Number.isInteger(count) && count >= 1 && count <= maxDefaultLanes) return count;
  throw usage(
    `--lanes ${JSON.stringify(lanes)} is not valid: 1 to 4; for more, name their ports in a config file`,
  );
}

function labelsOf(words: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    words.map((word): [string, string] => {
      const equals = word.indexOf('=');
      if (equals > 0) return [word.slice(0, equals), word.slice(equals + 1)];
      throw usage(`--label ${JSON.stringify(word)} is not valid: write key=value`);
    }),
  );
}

function flagOf(name: string): string {
  return `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

function usage(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}
