import { createInterface } from 'node:readline/promises';
import { SingleBar } from 'cli-progress';
import { formatByteSize, openApiClient } from '@stor/protocol';
import type { Progress } from './command-context.ts';
import { openNbdSession } from './nbd-client-session.ts';
import { packageVersion } from './package-version.ts';
import { runStorctl } from './run-storctl.ts';

const interrupt = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    // The first one lets the command clean up, the second one does not wait for that.
    if (interrupt.signal.aborted) process.exit(130);
    interrupt.abort();
  });
}
// `storctl volume ls | head -1`: the reader has what it wanted.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? 0 : 1);
});

const exitCode = await runStorctl(process.argv.slice(2), {
  openApi: openApiClient,
  openNbd: openNbdSession,
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  cwd: process.cwd(),
  isTty: process.stdin.isTTY && process.stderr.isTTY,
  ask,
  progress: openProgressBar,
  ...(process.stdout.isTTY ? { columns: () => process.stdout.columns } : {}),
  programDir: import.meta.dirname,
  signal: interrupt.signal,
  version: packageVersion(),
});
// Not by waiting for an empty event loop: a call that was given up may still hold a socket.
process.stdout.write('', () => process.exit(exitCode));

async function ask(question: string): Promise<string> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return await terminal.question(question, { signal: interrupt.signal });
  } finally {
    terminal.close();
  }
}

function openProgressBar(
  label: string,
  total: number,
  format: (total: number) => string = formatByteSize,
): Progress {
  const bar = new SingleBar({
    format: `${label} [{bar}] {percentage}% of ${format(total)}, {eta_formatted} left`,
    hideCursor: true,
    clearOnComplete: true,
    stopOnComplete: false,
  });
  bar.start(total, 0);
  return { update: (done) => bar.update(done), stop: () => bar.stop() };
}
