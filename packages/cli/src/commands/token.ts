import type { Command } from 'commander';
import type { JoinToken } from '@stor/protocol';
import { StorError } from '@stor/protocol';
import type { RunAction } from '../command-context.ts';
import { formatAge, parseDurationMs } from '../core/duration.ts';
import type { Column } from '../core/table.ts';

export function addTokenCommands(program: Command, run: RunAction): void {
  const token = program.command('token').description('tokens by which nodes join the cluster');
  addCreate(token, run);
  token
    .command('ls')
    .alias('list')
    .description('list the tokens, without their secrets')
    .addHelpText('after', '\nExamples:\n  storctl token ls')
    .action(async (_options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call, nowMs }) => {
        const { tokens } = await api.listTokens({}, call);
        print.rows(tokens, columns(nowMs), ({ id }) => id);
      }),
    );
  token
    .command('rm')
    .argument('<id>', 'id of the token, or the token itself')
    .description('remove a token: nobody joins with it any more')
    .addHelpText('after', '\nExamples:\n  storctl token rm 1f2e3d4c')
    .action(async (id: string, _options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        await api.removeToken({ id }, call);
        const [name = ''] = id.split('.');
        print.facts({ id: name }, `token ${name} removed\n`);
      }),
    );
}

function addCreate(token: Command, run: RunAction): void {
  token
    .command('create')
    .option('--ttl <time>', 'how long it may be used: 1s to 24d (at first 1h)')
    .option('--uses <count>', 'how many nodes may join with it: 1 to 1000 (at first 1)')
    .description('make a token and print it; it is shown this once')
    .addHelpText(
      'after',
      `
Only a hash of the token is kept. Give it to the new node:
  stor-agent --data-dir /var/lib/stor --listen 10.0.0.4 --join 10.0.0.1:17110 --token TOKEN

Examples:
  storctl token create
  storctl token create --ttl 10m --uses 4 -q`,
    )
    .action(async ({ ttl, uses }: { ttl?: string; uses?: string }, command: Command) => {
      const ttlMs = ttl === undefined ? 0 : parseDurationMs(ttl);
      const count = uses === undefined ? 0 : parseUses(uses);
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const made = await api.createToken({ ttlMs, uses: count }, call);
        // with -q the token alone, for scripts
        print.answer({ token: made.token, ...made.info }, `${made.token}\n`);
      });
    });
}

function parseUses(text: string): number {
  if (/^[1-9][0-9]{0,3}$/.test(text)) return Number(text);
  throw new StorError(
    'INVALID_ARGUMENT',
    `${JSON.stringify(text)} is no number of nodes: write 1 to 1000`,
  );
}

function columns(nowMs: number): Column<JoinToken>[] {
  return [
    { title: 'ID', cell: ({ id }) => id },
    { title: 'USES LEFT', cell: ({ usesLeft }) => String(usesLeft), right: true },
    {
      title: 'EXPIRES',
      cell: ({ expiresAtMs }) =>
        expiresAtMs > nowMs ? `in ${formatAge(expiresAtMs - nowMs)}` : 'expired',
    },
    { title: 'AGE', cell: ({ createdAtMs }) => formatAge(nowMs - createdAtMs) },
    { title: 'USED BY', cell: ({ usedBy }) => usedBy.join(',') },
  ];
}
