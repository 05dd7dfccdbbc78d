import { openNbdSession, runStorctl } from '@stor/cli';
import { openApiClient } from '@stor/protocol';
import type { CommandResult } from './run-command.ts';

/** A command that takes longer is given up, as a process of its own would be (ms). */
const mostMs = 120_000;

/**
 * Runs a command line of storctl in this process: all of it but the start of a process, which takes
 * longer than most commands and more of a small machine than the agents.
 */
export async function runStorctlHere(
  args: readonly string[],
  place: { endpoints: string; cwd: string },
): Promise<CommandResult> {
  const startedMs = performance.now();
  const printed = { stdout: '', stderr: '' };
  const sink = (name: keyof typeof printed) => ({
    write: (text: string) => {
      printed[name] += text;
      return true;
    },
  });
  const code = await runStorctl(args, {
    openApi: openApiClient,
    openNbd: openNbdSession,
    stdout: sink('stdout'),
    stderr: sink('stderr'),
    env: { ...process.env, STOR_ENDPOINTS: place.endpoints },
    cwd: place.cwd,
    isTty: false,
    signal: AbortSignal.timeout(mostMs),
  });
  const elapsedMs = performance.now() - startedMs;
  return { command: ['storctl', ...args].join(' '), code, signal: null, ...printed, elapsedMs };
}
