import { Command } from 'commander';
import { StorError, exitCodeOf } from '@stor/protocol';
import { openLogger } from '@stor/runtime';
import { Agent } from './agent.ts';
import { loadAgentConfig } from './config.ts';
import { agentVersion } from './version.ts';

/** An orderly stop that takes longer than this ends anyway: replicas survive a kill (ms). */
const stopTimeoutMs = 15_000;

interface StoreOptions {
  store?: string;
  etcdCa?: string;
  etcdCert?: string;
  etcdKey?: string;
}

/** What the command line says of the store, as the config file would. */
function storeConfig({ store, etcdCa, etcdCert, etcdKey }: StoreOptions): Record<string, unknown> {
  if (etcdCa === undefined && (etcdCert ?? etcdKey) !== undefined) {
    throw new StorError('INVALID_ARGUMENT', '--etcd-cert and --etcd-key need --etcd-ca');
  }
  return {
    ...(store === undefined ? {} : { store }),
    ...(etcdCa === undefined ? {} : { etcdTls: { ca: etcdCa, cert: etcdCert, key: etcdKey } }),
  };
}

async function run(configPath: string, options: StoreOptions): Promise<void> {
  const config = loadAgentConfig(configPath, storeConfig(options));
  const logger = openLogger({ node: config.nodeName }, config.logLevel);
  const agent = await Agent.start(config, logger);
  let stopping = false;
  const stop = (reason: string, exitCode: number): void => {
    if (stopping) return;
    stopping = true;
    logger.info({ reason }, 'agent stops');
    setTimeout(() => {
      logger.error({ stopTimeoutMs }, 'the agent did not stop in time');
      process.exit(exitCode || 1);
    }, stopTimeoutMs).unref();
    agent.close().then(
      () => process.exit(exitCode),
      (error: unknown) => {
        logger.error({ error: StorError.from(error).message }, 'the stop was not orderly');
        process.exit(1);
      },
    );
  };
  process.on('SIGTERM', () => {
    stop('SIGTERM', 0);
  });
  process.on('SIGINT', () => {
    stop('SIGINT', 0);
  });
  agent.onFatal((error) => {
    logger.error({ code: error.code, error: error.message }, 'the agent cannot go on');
    stop('fatal', 1);
  });
}

const program = new Command('stor-agent')
  .description('The agent of one Stor node: adds its disks to the pool and serves volumes over NBD')
  .version(agentVersion)
  .requiredOption('--config <path>', 'config file (YAML)')
  .exitOverride((error) => {
    process.exit(error.exitCode === 0 ? 0 : exitCodeOf.INVALID_ARGUMENT);
  })
  .option(
    '--store <address>',
    'embedded, or etcd://HOST:PORT[,HOST:PORT...][/PREFIX] (or `store:` in the config)',
  )
  .option('--etcd-ca <path>', 'PEM file: the authority of the etcd servers; turns TLS on')
  .option('--etcd-cert <path>', 'PEM file: the certificate of this node for etcd')
  .option('--etcd-key <path>', 'PEM file: the key of --etcd-cert')
  .action((options: { config: string } & StoreOptions) =>
    run(options.config, options).catch((thrown: unknown) => {
      const error = StorError.from(thrown);
      process.stderr.write(`error: ${error.message}\n`);
      process.exit(exitCodeOf[error.code]);
    }),
  );

await program.parseAsync();
