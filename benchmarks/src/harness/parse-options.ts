import { parseArgs, type ParseArgsConfig } from 'node:util';

/** Exit code of a command line that is not understood: docs/operating/exit-codes.md */
const invalidArgument = 2;

/**
 * The options of a program. With --help it prints the usage and ends; for what it does not know it says
 * so, without a stack trace, and ends. Nothing else of the program has run then.
 */
export function parseOptions<T extends ParseArgsConfig>(
  usage: string,
  config: T,
): ReturnType<typeof parseArgs<T>> {
  const end = (stream: NodeJS.WriteStream, text: string, code: number): never => {
    stream.write(text);
    process.exit(code);
  };
  try {
    const options = { ...config.options, help: { type: 'boolean', short: 'h' } } as const;
    const parsed = parseArgs<T>({ ...config, options });
    const { help } = parsed.values as { help?: boolean };
    if (help === true) end(process.stdout, `${usage.trimEnd()}\n`, 0);
    return parsed;
  } catch (error) {
    return end(process.stderr, `error: ${(error as Error).message}\n${usage}\n`, invalidArgument);
  }
}
