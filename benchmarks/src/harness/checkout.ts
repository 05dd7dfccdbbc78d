import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder of the checkout, found from this file whether it runs from src/ or from dist/. */
export function checkoutRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'pnpm-workspace.yaml'))) {
    const parent = dirname(folder);
    if (parent === folder) throw new Error('not inside a checkout: no pnpm-workspace.yaml above');
    folder = parent;
  }
  return folder;
}

/** A compiled program of this package, for running as a process of its own. */
export function compiledProgram(path: string): string {
  const file = join(checkoutRoot(), 'benchmarks/dist/src', path);
  if (!existsSync(file)) {
    throw new Error(`${file} is missing: build first (node scripts/bootstrap.mjs)`);
  }
  return file;
}
