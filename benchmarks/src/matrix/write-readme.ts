import { readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { readRecordedPeers } from '../accept/fast/recorded.ts';
import { checkoutRoot } from '../harness/checkout.ts';
import { mustRun } from '../harness/run-command.ts';
import { benchChart } from './chart.ts';
import { readmeSection, withSection } from './readme-section.ts';
import { readResult } from './results-file.ts';

/** Draws the picture of a file of results beside it and brings the README up to date. */
export async function writeReadme(path: string): Promise<void> {
  const result = readResult(path);
  if (!result) throw new Error(`there is no file ${path}`);
  const root = checkoutRoot();
  const picture = path.replace(/\.json$/, '.svg');
  writeFileSync(picture, benchChart(result.summaries));
  const readme = join(root, 'README.md');
  const section = readmeSection({
    result,
    recorded: readRecordedPeers(),
    picturePath: relative(root, picture),
    resultPath: relative(root, path),
  });
  writeFileSync(readme, withSection(readFileSync(readme, 'utf8'), section));
  // so that the columns of tables are as wide as everywhere
  await mustRun(join(root, 'node_modules/.bin/prettier'), ['--write', readme]);
  process.stdout.write(`written: ${readme}, ${picture}\n`);
}
