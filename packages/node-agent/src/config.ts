import { readFileSync } from 'node:fs';
import { parseEtcdAddress } from '@stor/control-plane';
import { checkLabels, maxLanes, maxTrashKeepMs, nodeLeaseMs, StorError } from '@stor/protocol';
import { parseYaml } from '@stor/runtime';
import { z } from 'zod';
import { dockerConfigSchema } from './docker/docker-config.ts';

const port = z.number().int().min(0).max(65535);

const tlsFile = z.string().startsWith('/');

/** How NBD over TCP is encrypted; see docs/operating/tls.md. Files are PEM. */
const nbdTlsSchema = z
  .strictObject({
    /** required: nothing is served in the clear; allowed: a client may ask for TLS */
    mode: z.enum(['off', 'allowed', 'required']),
    cert: tlsFile.optional(),
    key: tlsFile.optional(),
    /** who vouches for clients and for the other nodes */
    ca: tlsFile.optional(),
    /** default: required when there is a CA */
    clientCertificates: z.enum(['required', 'none']).optional(),
    /** pre-shared keys as psktool makes them */
    pskFile: tlsFile.optional(),
    /** the name of this node among them, towards other nodes; default: the first */
    pskIdentity: z.string().min(1).max(128).optional(),
  })
  .superRefine(({ mode, cert, key, ca, clientCertificates, pskFile, pskIdentity }, context) => {
    const wrong = (message: string): void => context.addIssue({ code: 'custom', message });
    if ((cert === undefined) !== (key === undefined)) wrong('cert and key go together');
    if (mode !== 'off' && cert === undefined && pskFile === undefined) {
      wrong('give cert and key, or pskFile');
    }
    if (ca !== undefined && cert === undefined) wrong('ca goes with cert and key');
    if (clientCertificates === 'required' && ca === undefined) {
      wrong('clientCertificates: required needs ca');
    }
    const isOpen = clientCertificates === 'none' || ca === undefined;
    if (cert !== undefined && pskFile !== undefined && isOpen) {
      wrong(
        'with cert and key but no client certificates anybody gets in without a key of pskFile',
      );
    }
    if (pskIdentity !== undefined && pskFile === undefined) wrong('pskIdentity needs pskFile');
  });

/** A path, or `unix://` and one, as orchestrators write it. */
const socketPath = z
  .string()
  .transform((text) => text.replace(/^unix:\/\/(?=\/)/, ''))
  .refine((path) => path.startsWith('/'), 'a UNIX socket: an absolute path, or unix:///PATH');

/** A token is sent there. */
function isSafeServer(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, hostname } = new URL(text);
  return protocol === 'https:' || (protocol === 'http:' && loopback.test(hostname));
}

/** The CSI driver; see docs/operating/kubernetes.md. */
const csiSchema = z
  .strictObject({
    /** for all services */
    endpoint: socketPath.optional(),
    /** instead: one for the cluster's side, one for this host's; either may be left out */
    controllerEndpoint: socketPath.optional(),
    nodeEndpoint: socketPath.optional(),
    /** @default csi.stor.internal */
    driverName: z.string().min(1).max(63).optional(),
    /** 0: no bound @default 128 */
    maxVolumesPerNode: z.number().int().min(0).max(10_000).optional(),
    /** how long deleted volumes stay in the trash @default as for any other */
    trashKeepMs: z.number().int().min(0).max(maxTrashKeepMs).optional(),
    /** takes lost nodes out of service in Kubernetes; absent: nobody does */
    nodeLoss: z
      .strictObject({
        server: z.url().refine(isSafeServer, 'https://HOST:PORT; without TLS only on loopback'),
        tokenFile: tlsFile,
        caFile: tlsFile.optional(),
        /** how long both sides must agree @default 30,000 */
        waitMs: z.number().int().min(nodeLeaseMs).max(3_600_000).optional(),
      })
      .optional(),
  })
  .superRefine(({ endpoint, controllerEndpoint, nodeEndpoint }, context) => {
    const wrong = (message: string): void => context.addIssue({ code: 'custom', message });
    const isSplit = controllerEndpoint !== undefined || nodeEndpoint !== undefined;
    if (endpoint === undefined && !isSplit)
      wrong('give endpoint, or controllerEndpoint or nodeEndpoint');
    if (endpoint !== undefined && isSplit) wrong('endpoint stands alone');
    if (isSplit && controllerEndpoint === nodeEndpoint)
      wrong('the two sides are at different sockets');
  });

const agentConfigSchema = z.strictObject({
  clusterId: z.string().regex(/^c-[0-9a-f]{16}$/),
  clusterName: z.string().min(1).default('stor'),
  nodeId: z.string().regex(/^n-[0-9a-f]{16}$/),
  nodeName: z.string().min(1).max(63),
  dataDir: z.string().startsWith('/'),
  listen: z.strictObject({
    host: z.string().default('127.0.0.1'),
    /** host that others reach this node by, when it is not `host` (0.0.0.0, or behind a relay) */
    advertise: z.string().min(1).optional(),
    api: port,
    http: port,
    /** one for each lane; a single number is a list of one */
    peers: z.union([port, z.array(port).min(1)]),
    /** one for each lane; more than there are lanes are not used */
    nbd: z.array(port).min(1),
  }),
  /** data-path threads, each with disks and volumes of its own @default 1 */
  lanes: z.number().int().min(1).max(maxLanes).optional(),
  /** where the NBD UNIX sockets of the lanes are made; no UNIX socket when absent */
  nbdUnixDir: z.string().startsWith('/').optional(),
  nbd: z
    .strictObject({
      tls: nbdTlsSchema.optional(),
      /** wait awake for a client that sends one request after another, see docs/operating/lanes.md @default true */
      busyPoll: z.boolean().optional(),
    })
    .optional(),
  /** the Docker volume plug-in; absent: this node has none */
  docker: dockerConfigSchema.optional(),
  members: z
    .array(z.strictObject({ id: z.string(), name: z.string(), api: z.string() }))
    .max(7)
    .default([]),
  /** where the cluster's state is kept: `embedded` (the default), or `etcd://[USER@]HOST:PORT[,HOST:PORT...][/PREFIX]` */
  store: z.string().optional(),
  /** PEM files for etcd by TLS; `cert` and `key` when etcd asks for a certificate of its clients */
  etcdTls: z
    .strictObject({ ca: z.string(), cert: z.string().optional(), key: z.string().optional() })
    .optional(),
  /** the password of the user that `store` names (etcd://USER@…) */
  etcdPasswordFile: z.string().startsWith('/').optional(),
  logLevel: z.enum(['debug', 'info', 'warn', 'error']).default('info'),
  pidFile: z.string().startsWith('/').optional(),
  /** bytes of each disk that replicas may not use; default: the larger of 64 MiB and 1 % */
  diskReserveBytes: z.number().int().nonnegative().optional(),
  /** make a disk in `dataDir` at the first start; false: the node has those that `disk add` gives it */
  autoDisk: z.boolean().default(true),
  autoDetachMs: z.number().int().positive().optional(),
  /** of the node when it registers for the first time, such as its failure domain */
  labels: z.record(z.string(), z.string()).optional(),
  /** how volumes become block devices of this host; auto: by nbd.ko where it is there, else FUSE and a loop device, see docs/operating/devices.md @default auto */
  deviceMeans: z.enum(['auto', 'fuse-loop', 'nbd-kernel']).optional(),
  /** absent: the agent is no CSI driver */
  csi: csiSchema.optional(),
  /** listen beyond loopback although nothing is encrypted yet */
  insecureListen: z.boolean().default(false),
});

/** How a node that finds its members at run time takes part in the cluster store. */
export interface Formation {
  /** of a store that is made now: this node; none: it joins, or goes on */
  voters: string[];
  /** see StoreMembers.storeId */
  storeId: string;
  /** members that it was told of when it joined */
  known: { id: string; address: string }[];
}

/** `members` is empty when `formation` says how they are found. */
export type AgentConfig = z.infer<typeof agentConfigSchema> & { formation?: Formation };

/** A config file without members: who the node is says its data folder. */
const agentSettingsSchema = agentConfigSchema
  .omit({ clusterId: true, nodeId: true, members: true })
  .extend({ nodeName: z.string().min(1).max(63).optional() });

export type AgentSettings = z.infer<typeof agentSettingsSchema>;

const loopback = /^(127\.\d+\.\d+\.\d+|::1|localhost)$/;

/** What a config file says, unchecked. INVALID_ARGUMENT. */
export function loadConfigFile(path: string): unknown {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `cannot read the config file ${path}: ${(error as Error).message}`,
      { cause: error },
    );
  }
  return parseYaml(text, path);
}

/** Does the file say itself who the node is? Then it is a whole `AgentConfig`. */
export function namesNode(value: unknown): boolean {
  return typeof value === 'object' && value !== null && ('members' in value || 'nodeId' in value);
}

/** INVALID_ARGUMENT names the field and what is wrong with it; `where` says where it is from. */
export function checkAgentSettings(value: unknown, where: string): AgentSettings {
  const parsed = agentSettingsSchema.safeParse(value);
  if (!parsed.success) throw notValid(where, parsed.error);
  checkStore(parsed.data, where);
  checkLabels(parsed.data.labels ?? {});
  lanePorts(parsed.data, where);
  checkLaneSockets(parsed.data, where);
  checkListen(parsed.data, where);
  return parsed.data;
}

/** A whole configuration, members and all. INVALID_ARGUMENT as above. */
export function checkAgentConfig(value: unknown, path: string): AgentConfig {
  const where = `config file ${path}`;
  const parsed = agentConfigSchema.safeParse(value);
  if (!parsed.success) throw notValid(where, parsed.error);
  const config = parsed.data;
  checkStore(config, where);
  if (!isEtcd(config.store) && !config.members.some((member) => member.id === config.nodeId)) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `${where}: members does not contain nodeId ${config.nodeId}`,
    );
  }
  lanePorts(config, where);
  checkLaneSockets(config, where);
  checkListen(config, where);
  return config;
}

/** The ports of each lane. INVALID_ARGUMENT when there are too few. */
export function lanePorts(
  { lanes = 1, listen }: Pick<AgentSettings, 'lanes' | 'listen'>,
  where: string,
): { peers: number; nbd: number }[] {
  const { peers, nbd } = listen;
  const peerPorts = typeof peers === 'number' ? [peers] : peers;
  const few = peerPorts.length < lanes ? 'peers' : 'nbd';
  const count = Math.min(peerPorts.length, nbd.length);
  if (count < lanes) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `${where}: lanes: ${lanes} needs as many ports in listen.${few}: give a list of ${lanes}`,
    );
  }
  const ports = Array.from({ length: lanes }, (_, lane) => ({
    peers: peerPorts[lane] ?? 0,
    nbd: nbd[lane] ?? 0,
  }));
  const used = ports.flatMap((lane) => [lane.peers, lane.nbd]).filter((each) => each !== 0);
  const twice = used.find((each, at) => used.indexOf(each) !== at);
  if (twice === undefined) return ports;
  throw new StorError('INVALID_ARGUMENT', `${where}: port ${twice} is given to two listeners`);
}

/** Lanes reach each other's NBD in clear text, which TCP does not take where TLS is required. */
function checkLaneSockets(
  { lanes = 1, nbd, nbdUnixDir }: Pick<AgentSettings, 'lanes' | 'nbd' | 'nbdUnixDir'>,
  where: string,
): void {
  if (lanes === 1 || nbd?.tls?.mode !== 'required' || nbdUnixDir !== undefined) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `${where}: lanes: ${lanes} with nbd.tls.mode: required needs nbdUnixDir: lanes reach each other by the sockets there`,
  );
}

export function isEtcd(store: string | undefined): store is string {
  return store !== undefined && store !== 'embedded';
}

function checkStore(
  { store, etcdTls }: Pick<AgentConfig, 'store' | 'etcdTls'>,
  where: string,
): void {
  const wrong = (problem: string): StorError =>
    new StorError('INVALID_ARGUMENT', `${where}: ${problem}`);
  if (isEtcd(store)) {
    try {
      parseEtcdAddress(store);
    } catch (error) {
      throw wrong(`store: ${(error as Error).message}`);
    }
  }
  if (etcdTls && (etcdTls.cert === undefined) !== (etcdTls.key === undefined)) {
    throw wrong('etcdTls: cert and key go together');
  }
}

function notValid(where: string, error: z.ZodError): StorError {
  const problems = error.issues.map(
    (issue) => `${issue.path.join('.') || '(file)'}: ${issue.message}`,
  );
  return new StorError('INVALID_ARGUMENT', `${where}: ${problems.join('; ')}`);
}

function checkListen(
  { listen, insecureListen }: Pick<AgentSettings, 'listen' | 'insecureListen'>,
  where: string,
): void {
  if (loopback.test(listen.host) || insecureListen) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `${where}: listen.host ${listen.host} is not loopback, and nothing is encrypted yet: anyone who can reach it could read and write every volume. Listen on 127.0.0.1, or set insecureListen: true (--insecure-listen) on a network that you trust`,
  );
}
