import { parseArgs } from 'node:util';

/**
 * The options of a program. With --help it prints the usage and ends; for what it does not know it says
 * so, without a stack trace, and ends. Nothing else of the program has run then.
 *
 * @param {string} usage
 * @param {import('node:util').ParseArgsConfig['options']} options
 */
export function parseOptions(usage, options) {
  try {
    const help = { type: 'boolean', short: 'h' };
    const { values } = parseArgs({ options: { ...options, help } });
    if (!values.help) return values;
    process.stdout.write(`${usage}\n`);
    return process.exit(0);
  } catch (error) {
    process.stderr.write(`error: ${error.message}\n${usage}\n`);
    return process.exit(2);
  }
}
