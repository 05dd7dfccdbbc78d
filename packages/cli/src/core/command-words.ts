/** What prefix matching needs to know of a command: a tree of names and of options with a value. */
export interface CommandWord {
  name: string;
  aliases: readonly string[];
  /** false: the word must be written in full, because what it does cannot be undone */
  abbreviable: boolean;
  /** flags (`-o`, `--output`) that take the next argument as their value */
  valueFlags: readonly string[];
  children: readonly CommandWord[];
}

export type ExpandedWords =
  | { kind: 'ok'; argv: string[]; command: string[] }
  | { kind: 'ambiguous'; word: string; candidates: string[] };

/**
 * Replaces unambiguous prefixes of commands by their names: `vol ls` becomes `volume ls`. Words
 * that match nothing stay, so that the parser reports them with its suggestions. `command` is the
 * command that was found, as the words of its full name.
 */
export function expandCommandWords(argv: readonly string[], root: CommandWord): ExpandedWords {
  const expanded: string[] = [];
  const path: string[] = [];
  const valueFlags = new Set(root.valueFlags);
  let command = root;
  let at = 0;
  for (; at < argv.length && command.children.length > 0; at++) {
    const word = argv[at] ?? '';
    if (word === '--') break;
    if (word.startsWith('-')) {
      expanded.push(word);
      const value = argv[at + 1];
      if (valueFlags.has(word) && value !== undefined) {
        expanded.push(value);
        at += 1;
      }
      continue;
    }
    const found = matchCommand(word, command.children);
    if (found.length > 1) {
      return { kind: 'ambiguous', word, candidates: found.map((child) => child.name) };
    }
    const next = found[0];
    if (next === undefined) break;
    expanded.push(next.name);
    path.push(next.name);
    for (const flag of next.valueFlags) valueFlags.add(flag);
    command = next;
  }
  return { kind: 'ok', argv: [...expanded, ...argv.slice(at)], command: path };
}

function matchCommand(word: string, commands: readonly CommandWord[]): CommandWord[] {
  const names = (command: CommandWord) => [command.name, ...command.aliases];
  const exact = commands.filter((command) => names(command).includes(word));
  if (exact.length > 0) return exact;
  return commands.filter(
    (command) => command.abbreviable && names(command).some((name) => name.startsWith(word)),
  );
}
