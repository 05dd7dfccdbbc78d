import { join, resolve } from 'node:path';
import { Command, CommanderError } from 'commander';
import { StorError, exitCodeOf } from '@stor/protocol';
import type { TextSink } from '../printer.ts';
import { nodeNamesIn, purgeCheckout, stopAgents } from './stop-checkout.ts';

/** `npm run down [-- --purge]`: stops the checkout's agents. Resolves with the exit code. */
export async function runDown(
  argv: readonly string[],
  root: string,
  io: { stdout: TextSink; stderr: TextSink },
): Promise<number> {
  const say = (line: string) => void io.stdout.write(`${line}\n`);
  try {
    const program = new Command('npm run down --')
      .description('stops the cluster of this checkout; its data stays')
      .option('--purge', 'remove the cluster with all its data')
      .option('--dir <path>', 'where the cluster lives', join(root, '.stor'))
      .allowExcessArguments(false)
      .exitOverride()
      .configureOutput({
        writeOut: (text) => void io.stdout.write(text),
        writeErr: (text) => void io.stderr.write(text),
      })
      .parse(argv, { from: 'user' });
    const { purge, dir } = program.opts<{ purge?: true; dir: string }>();
    const stateDir = resolve(dir);
    if (nodeNamesIn(stateDir).length === 0) {
      say(`there is no cluster in ${stateDir}`);
      return 0;
    }
    for (const { name, outcome } of await stopAgents(stateDir)) say(`${name}: ${outcome}`);
    if (purge === true) {
      await purgeCheckout(stateDir);
      say(`${stateDir} removed with all data`);
    } else {
      say(
        `data stays in ${stateDir}; "npm run up" finds it again, "npm run down -- --purge" removes it`,
      );
    }
    return 0;
  } catch (error) {
    if (error instanceof CommanderError)
      return error.exitCode === 0 ? 0 : exitCodeOf.INVALID_ARGUMENT;
    const known = StorError.from(error);
    io.stderr.write(`error: ${known.message}\n`);
    return exitCodeOf[known.code];
  }
}
