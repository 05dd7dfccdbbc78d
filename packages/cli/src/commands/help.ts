import type { Command } from 'commander';
import { StorError } from '@stor/protocol';
import type { StorctlIo } from '../command-context.ts';
import { renderTable } from '../core/table.ts';
import { exitCodes } from '../exit-codes.ts';

const environment = `STOR_ENDPOINTS  API addresses, HOST:PORT[,HOST:PORT...]; --endpoints goes first
STOR_DEBUG      when set, an internal error is printed with where it happened
`;

/** `help`, `help COMMAND...`, `help exit-codes`, `help env`. */
export function addHelpCommand(
  program: Command,
  io: StorctlIo,
  /** full names for shortened command words */
  expand: (words: readonly string[]) => readonly string[],
): void {
  program
    .command('help')
    .argument('[topic...]', 'a command, or exit-codes, or env')
    .description('show help for a command or a topic (exit-codes, env)')
    .action((topic: string[]) => {
      const word = topic.join(' ');
      if (word === 'exit-codes') io.stdout.write(exitCodeTable());
      else if (word === 'env') io.stdout.write(environment);
      else commandAt(program, expand(topic)).outputHelp();
    });
}

function commandAt(program: Command, words: readonly string[]): Command {
  let command = program;
  for (const word of words) {
    const next = command.commands.find(
      (child) => child.name() === word || child.aliases().includes(word),
    );
    if (next === undefined) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `there is no help on ${JSON.stringify(words.join(' '))}: "storctl --help" lists the commands; other topics are exit-codes and env`,
      );
    }
    command = next;
  }
  return command;
}

function exitCodeTable(): string {
  return renderTable(
    exitCodes,
    [
      { title: 'CODE', cell: (row) => String(row.status), right: true },
      { title: 'MEANING', cell: (row) => row.meaning },
    ],
    { wide: false, headers: true },
  );
}
