import type { Command } from 'commander';
import type { HostFinding } from '@stor/protocol';
import type { CommandContext, RunAction } from '../command-context.ts';
import { renderTable, type Column } from '../core/table.ts';
import { ExitStatus } from '../exit-status.ts';

/** As `cluster status --exit-code` ends. */
const checkFailed = 10;

interface DoctorFlags {
  node: string;
  exitCode?: true;
}

export function addDoctorCommand(program: Command, run: RunAction): void {
  program
    .command('doctor')
    .option('--node <node>', 'host to look at (default: the node that answers)', '')
    .option('--exit-code', 'exit with 10 when a check has failed')
    .description('check what a host has of what devices and mounts of volumes need')
    .addHelpText(
      'after',
      `
failed: something cannot work there. warning: a part of it cannot. Each line says what was found and what to
do. "nbd-kernel" says whether volumes become devices by the kernel's NBD or by FUSE and a loop device, and why.

Examples:
  storctl doctor --node n2
  storctl doctor --exit-code -o json`,
    )
    .action(async (flags: DoctorFlags, command: Command) =>
      run(command.optsWithGlobals(), (context) => examine(context, flags)),
    );
}

async function examine(
  { api, print, call }: CommandContext,
  { node: asked, exitCode }: DoctorFlags,
): Promise<void> {
  const { node, checks } = await api.checkHost({ node: asked }, call);
  const failed = checks.filter(({ state }) => state === 'failed');
  const summary =
    failed.length === 0
      ? `volumes can be devices and mounts of ${node}`
      : `${failed.length} of ${checks.length} checks of ${node} have failed`;
  const table = renderTable(checks, columns, { wide: false, headers: true });
  print.answer({ node, checks }, `${table}${summary}\n`);
  if (exitCode === true && failed.length > 0) throw new ExitStatus(checkFailed);
}

const columns: readonly Column<HostFinding>[] = [
  { title: 'CHECK', cell: ({ name }) => name },
  { title: 'STATE', cell: ({ state }) => state },
  { title: 'FOUND', cell: ({ text }) => text },
];
