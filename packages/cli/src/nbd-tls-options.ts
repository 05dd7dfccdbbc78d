import type { Command } from 'commander';
import { nbdTlsFlags } from './core/nbd-tls.ts';

/** The options of a command that speaks NBD; `nbdTlsOf` reads them. */
export function addNbdTlsOptions(command: Command): void {
  for (const { flag, help, env } of nbdTlsFlags) command.option(flag, `${help} (or ${env})`);
}
