import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { becomeIoFlusher, isIoFlusher } from '../src/index.ts';

const moduleFile = fileURLToPath(new URL('../src/io-flusher.ts', import.meta.url));

t.test('whoever writes pages back says so, and what it starts has it too', async (t) => {
  const before = isIoFlusher();
  const refusal = becomeIoFlusher();
  if (refusal !== null) {
    // root of a container has not that right
    t.not(isIoFlusher(), true);
    t.comment(`SKIPPED: ${refusal}`);
    return;
  }
  t.equal(before, false);
  t.equal(isIoFlusher(), true);
  const program = `import(${JSON.stringify(moduleFile)}).then((m) => console.log(m.isIoFlusher()))`;
  const said = execFileSync(process.execPath, [...process.execArgv, '-e', program]);
  t.equal(said.toString().trim(), 'true', 'also a program');
});
