import { readFileSync } from 'node:fs';
import { parseEtcdAddress } from '@stor/control-plane';
import { StorError } from '@stor/protocol';
import { parseYaml } from '@stor/runtime';
import { z } from 'zod';

const port = z.number().int().min(0).max(65535);

const agentConfigSchema = z.strictObject({
  clusterId: z.string().regex(/^c-[0-9a-f]{16}$/),
  clusterName: z.string().min(1).default('stor'),
  nodeId: z.string().regex(/^n-[0-9a-f]{16}$/),
  nodeName: z.string().min(1).max(63),
  dataDir: z.string().startsWith('/'),
  listen: z.strictObject({
    host: z.string().default('127.0.0.1'),
    api: port,
    http: port,
    peers: port,
    nbd: z.array(port).min(1),
  }),
  /** where the NBD UNIX sockets of the lanes are made; no UNIX socket when absent */
  nbdUnixDir: z.string().startsWith('/').optional(),
  members: z
    .array(z.strictObject({ id: z.string(), name: z.string(), api: z.string() }))
    .max(7)
    .default([]),
  /** where the cluster's state is kept: `embedded` (the default), or `etcd://HOST:PORT[,HOST:PORT...][/PREFIX]` */
  store: z.string().optional(),
  /** PEM files for etcd by TLS; `cert` and `key` when etcd asks for a certificate of its clients */
  etcdTls: z
    .strictObject({ ca: z.string(), cert: z.string().optional(), key: z.string().optional() })
    .optional(),
  logLevel: z.enum(['debug', 'info', 'warn', 'error']).default('info'),
  pidFile: z.string().startsWith('/').optional(),
  /** bytes of each disk that replicas may not use; default: the larger of 64 MiB and 1 % */
  diskReserveBytes: z.number().int().nonnegative().optional(),
  /** make a disk in `dataDir` at the first start; false: the node has those that `disk add` gives it */
  autoDisk: z.boolean().default(true),
  autoDetachMs: z.number().int().positive().optional(),
  /** listen beyond loopback although nothing is encrypted yet */
  insecureListen: z.boolean().default(false),
});

export type AgentConfig = z.infer<typeof agentConfigSchema>;

const loopback = /^(127\.\d+\.\d+\.\d+|::1|localhost)$/;

/** Reads and checks a config file; `overrides` go before what it says. INVALID_ARGUMENT names the field and what is wrong with it. */
export function loadAgentConfig(
  path: string,
  overrides: Record<string, unknown> = {},
): AgentConfig {
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
  const value = parseYaml(text, path);
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
  return checkAgentConfig(isObject ? { ...value, ...overrides } : value, path);
}

export function checkAgentConfig(value: unknown, path: string): AgentConfig {
  const parsed = agentConfigSchema.safeParse(value);
  if (!parsed.success) {
    const problems = parsed.error.issues.map(
      (issue) => `${issue.path.join('.') || '(file)'}: ${issue.message}`,
    );
    throw new StorError('INVALID_ARGUMENT', `config file ${path}: ${problems.join('; ')}`);
  }
  const config = parsed.data;
  checkStore(config, path);
  if (!isEtcd(config.store) && !config.members.some((member) => member.id === config.nodeId)) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `config file ${path}: members does not contain nodeId ${config.nodeId}`,
    );
  }
  if (!loopback.test(config.listen.host) && !config.insecureListen) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `config file ${path}: listen.host ${config.listen.host} is not loopback, and nothing is encrypted yet: anyone who can reach it could read and write every volume. Listen on 127.0.0.1, or set insecureListen: true on a network that you trust`,
    );
  }
  return config;
}

export function isEtcd(store: string | undefined): store is string {
  return store !== undefined && store !== 'embedded';
}

function checkStore({ store, etcdTls }: AgentConfig, path: string): void {
  const wrong = (problem: string): StorError =>
    new StorError('INVALID_ARGUMENT', `config file ${path}: ${problem}`);
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
