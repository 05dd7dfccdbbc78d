import type { Command } from 'commander';
import { StorError } from '@stor/protocol';
import type { Member } from '@stor/protocol';
import type { RunAction } from '../command-context.ts';
import { formatAge, formatWait, parseDurationMs } from '../core/duration.ts';
import type { Column } from '../core/table.ts';

export function addMemberCommands(cluster: Command, run: RunAction): void {
  cluster
    .command('members')
    .description('list the members of the cluster store: who votes, and how far each one is')
    .addHelpText(
      'after',
      `
LAG is how many entries of the log a member lacks, as its leader knows; "-" without a leader.

Examples:
  storctl cluster members
  storctl cluster members -o json`,
    )
    .action(async (_options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call, nowMs }) => {
        const { members } = await api.listMembers({}, call);
        print.rows(members, columns(nowMs), ({ nodeId }) => nodeId);
      }),
    );
  addVote(cluster, run, {
    verb: 'promote',
    vote: true,
    description: 'give a member of the cluster store a vote, and keep it a voter',
    done: 'votes now',
    more: 'The members that vote are best an odd number: 3, 5 or 7.',
  });
  addVote(cluster, run, {
    verb: 'demote',
    vote: false,
    description: 'take the vote of a member of the cluster store away',
    done: 'has no vote any more',
    more: 'It keeps learning, and becomes no voter by itself. Another member that is up takes its place.\nRefused when the voters that are left would have no majority that is up.',
  });
  addSet(cluster, run);
}

interface VoteVerb {
  verb: string;
  vote: boolean;
  description: string;
  done: string;
  more: string;
}

function addVote(cluster: Command, run: RunAction, texts: VoteVerb): void {
  const { verb, vote, description, done, more } = texts;
  cluster
    .command(verb)
    .argument('<node>', 'name or id')
    .description(description)
    .addHelpText('after', `\n${more}\n\nExamples:\n  storctl cluster ${verb} n4`)
    .action(async (node: string, _options: object, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const { members } = await api.setMemberVote({ node, vote }, call);
        const voters = members.filter(({ role }) => role !== 'learner').map(({ name }) => name);
        print.facts({ members }, `${node} ${done}; voters: ${voters.join(', ')}\n`);
      }),
    );
}

function addSet(cluster: Command, run: RunAction): void {
  cluster
    .command('set')
    .option(
      '--voters <count>',
      'how many members vote: 1, 3, 5 or 7; auto: 3, or as many as there are',
    )
    .option(
      '--voter-wait <time>',
      'a voter that is down for so long is replaced: 5s to 7d (at first 1m)',
    )
    .description('change how the cluster store chooses its voters')
    .addHelpText(
      'after',
      '\nExamples:\n  storctl cluster set --voters 5\n  storctl cluster set --voter-wait 5m',
    )
    .action(async (options: { voters?: string; voterWait?: string }, command: Command) => {
      const { voters, voterWait } = options;
      if (voters === undefined && voterWait === undefined) {
        throw new StorError(
          'INVALID_ARGUMENT',
          'nothing is to be changed: give --voters or --voter-wait',
        );
      }
      const count = voters === undefined ? undefined : parseCount(voters);
      const waitMs = voterWait === undefined ? undefined : parseDurationMs(voterWait);
      await run(command.optsWithGlobals(), async ({ api, print, call }) => {
        const settings = await api.setMembers(
          {
            ...(count === undefined ? {} : { voters: count }),
            ...(waitMs === undefined ? {} : { replacementWaitMs: waitMs }),
          },
          call,
        );
        const said =
          settings.voters === 0 ? '3 voters, or as many as there are' : `${settings.voters} voters`;
        print.facts(
          { ...settings },
          `${said}; one that is down for ${formatWait(settings.replacementWaitMs)} is replaced\n`,
        );
      });
    });
}

/** `auto` is 0. */
function parseCount(text: string): number {
  if (text === 'auto') return 0;
  if (/^[1-9][0-9]?$/.test(text)) return Number(text);
  throw new StorError(
    'INVALID_ARGUMENT',
    `${JSON.stringify(text)} is no number of voters: write 1, 3, 5, 7 or auto`,
  );
}

function columns(nowMs: number): Column<Member>[] {
  return [
    { title: 'NAME', cell: ({ name }) => name },
    { title: 'ROLE', cell: ({ role }) => role },
    { title: 'STATE', cell: ({ up }) => (up ? 'up' : 'down') },
    { title: 'ADDRESS', cell: ({ address }) => address },
    { title: 'MATCH', cell: ({ matchIndex }) => String(matchIndex ?? '-'), right: true },
    { title: 'LAG', cell: ({ lagEntries }) => String(lagEntries ?? '-'), right: true },
    { title: 'VOTE', cell: ({ vote }) => vote },
    { title: 'SINCE', cell: ({ sinceMs }) => formatAge(nowMs - sinceMs) },
    { title: 'ID', cell: ({ nodeId }) => nodeId, wide: true },
  ];
}
