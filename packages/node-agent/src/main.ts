import { Command } from 'commander';
import { StorError, exitCodeOf } from '@stor/protocol';
import { openLogger } from '@stor/runtime';
import { hostname } from 'node:os';
import { Agent } from './agent.ts';
import { checkAgentConfig, type AgentConfig } from './config.ts';
import { addAgentOptions, readCommandLine, type CommandLine } from './formation/command-line.ts';
import { formNode } from './formation/form-node.ts';
import { systemPlatform, type Platform } from './platform.ts';
import { agentVersion } from './version.ts';

/** An orderly stop that takes longer than this ends anyway: replicas survive a kill (ms). */
const stopTimeoutMs = 15_000;

const helpFooter = `
Examples:
  stor-agent --data-dir /var/lib/stor --listen 10.0.0.1 --bootstrap
  stor-agent --data-dir /var/lib/stor --listen 10.0.0.2 --join 10.0.0.1:17110 --token TOKEN
  stor-agent --data-dir /var/lib/stor --listen 10.0.0.2
  stor-agent --config /etc/stor/agent.yaml

A node that was started once needs no token: what is given again of --bootstrap, --join and --token
is not used. See docs/operating/cluster.md.`;

async function configOf(line: CommandLine, platform: Platform): Promise<AgentConfig> {
  if (line.kind === 'fixed') return checkAgentConfig(line.file, line.path);
  const { nodeName = hostname(), logLevel } = line.settings;
  const logger = openLogger({ node: nodeName }, logLevel);
  const { files, logs, rpc, clock, random } = platform;
  const host = { files, logs, rpc, clock, random, logger, hostName: hostname() };
  return formNode(line.settings, line.wish, host);
}

async function run(line: CommandLine): Promise<void> {
  const config = await configOf(line, systemPlatform);
  const logger = openLogger({ node: config.nodeName }, config.logLevel);
  let agent = await Agent.start(config, logger);
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
  const listen = (): void => {
    agent.onFatal((error) => {
      logger.error({ code: error.code, error: error.message }, 'the agent cannot go on');
      stop('fatal', 1);
    });
    agent.onMoved(() => {
      if (stopping) return;
      logger.info({}, 'the agent begins anew with the store that the cluster has moved to');
      beginAnew().catch((error: unknown) => {
        logger.error({ error: StorError.from(error).message }, 'the agent cannot begin anew');
        process.exit(1);
      });
    });
  };
  const beginAnew = async (): Promise<void> => {
    await agent.close();
    if (stopping) return;
    agent = await Agent.start(config, logger);
    listen();
  };
  listen();
}

const program = addAgentOptions(
  new Command('stor-agent')
    .description(
      'The agent of one Stor node: adds its disks to the pool and serves volumes over NBD',
    )
    .version(agentVersion),
)
  .addHelpText('after', helpFooter)
  .exitOverride((error) => {
    process.exit(error.exitCode === 0 ? 0 : exitCodeOf.INVALID_ARGUMENT);
  })
  .action(async (flags: object) => {
    try {
      await run(readCommandLine(flags, process.env));
    } catch (thrown) {
      const error = StorError.from(thrown);
      process.stderr.write(`error: ${error.message}\n`);
      process.exit(exitCodeOf[error.code]);
    }
  });

await program.parseAsync();
