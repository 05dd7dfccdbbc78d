import { readFileSync } from 'node:fs';
import t from 'tap';
import { countTogether } from './readme-counter.ts';

t.test('the example of the README is the one that runs', async (t) => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  const example = readFileSync(new URL('readme-counter.ts', import.meta.url), 'utf8');
  t.ok(readme.includes(`\`\`\`ts\n${example}\`\`\``), 'README.md shows test/readme-counter.ts');
  t.capture(console, 'error');
  t.same(await countTogether(t.testdir(), [1, 2, 3, 4]), [10, 10, 10]);
});
