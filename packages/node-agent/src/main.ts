import { Command } from 'commander';
import { StorError, exitCodeOf } from '@stor/protocol';
import { openLogger } from '@stor/runtime';
import { Agent } from './agent.ts';
import { loadAgentConfig } from './config.ts';
import { agentVersion } from './version.ts';

/** An orderly stop that takes longer than this ends anyway: replicas survive a kill (ms). */
const stopTimeoutMs = 15_000;

async function run(configPath: string): Promise<void> {
  const config = loadAgentConfig(configPath);
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
  .action((options: { config: string }) =>
    run(options.config).catch((thrown: unknown) => {
      const error = StorError.from(thrown);
      process.stderr.write(`error: ${error.message}\n`);
      process.exit(exitCodeOf[error.code]);
    }),
  );

await program.parseAsync();
