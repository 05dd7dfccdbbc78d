// npm run accept -- NAME: shows what an issue promises, one line per item with value and target.

import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { bootstrapOrExit, checkoutRoot } from './bootstrap.mjs';
import { runCommand } from './run-command.mjs';

await bootstrapOrExit();
const folder = join(checkoutRoot, 'benchmarks/dist/src/accept');
const names = (existsSync(folder) ? readdirSync(folder) : [])
  .filter((file) => file.endsWith('.js'))
  .map((file) => file.slice(0, -'.js'.length))
  .sort();
const [name, ...rest] = process.argv.slice(2);
if (name === undefined || ['--list', '--help', '-h'].includes(name)) {
  process.stdout.write(
    names.length === 0
      ? 'There is no acceptance run in benchmarks/src/accept/ yet.\n'
      : `usage: npm run accept -- NAME [OPTIONS]; npm run accept -- NAME --help has the options\n` +
          `names: ${names.join(', ')}\n`,
  );
  process.exitCode = name === undefined ? 2 : 0;
} else if (!names.includes(name)) {
  process.stderr.write(
    `error: there is no acceptance run ${JSON.stringify(name)}; there are: ${names.join(', ') || 'none'}\n`,
  );
  process.exitCode = 2;
} else {
  const file = join(folder, `${name}.js`);
  process.exitCode = await runCommand(process.execPath, [file, ...rest], checkoutRoot);
}
