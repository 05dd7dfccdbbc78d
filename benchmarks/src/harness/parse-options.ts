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
  try {
    const options = { ...config.options, help: { type: 'boolean', short: 'h' } } as const;
    const parsed = parseArgs<T>({ ...config, options });
    const { help } = parsed.values as { help?: boolean };
    if (help === true) end(process.stdout, `${usage.trimEnd()}\n`, 0);
    return parsed;
  } catch (error) {
    return refuse(usage, (error as Error).message);
  }
}

/** What `read` makes of an option; what it throws is said, and the program ends, as `parseOptions` does. */
export function readOption<T>(usage: string, option: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    return refuse(usage, `${option}: ${(error as Error).message}`);
  }
}

/** A whole number above 0. */
export function numberOption(usage: string, option: string, text: string): number {
  return readOption(usage, `--${option}`, () => {
    const value = Number(text);
    if (Number.isSafeInteger(value) && value > 0) return value;
    throw new Error(`${JSON.stringify(text)} is not a whole number above 0`);
  });
}

function refuse(usage: string, message: string): never {
  return end(process.stderr, `error: ${message}\n${usage}\n`, invalidArgument);
}

function end(stream: NodeJS.WriteStream, text: string, code: number): never {
  stream.write(text);
  process.exit(code);
}
