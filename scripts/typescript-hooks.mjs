// Module hooks of a test run: TypeScript without its types, from the cache, and nothing of tap's own
// loaders, which Node is told to import after this one.

import { fileURLToPath } from 'node:url';
import { strippedSource } from './strip-types.mjs';

const tapLoader = /\/@tapjs\/(typescript|mock|processinfo)\/dist\/esm\/import\.mjs$/;

export function load(url, context, nextLoad) {
  if (url.startsWith('file:') && url.endsWith('.ts')) {
    return { format: 'module', source: strippedSource(fileURLToPath(url)), shortCircuit: true };
  }
  if (tapLoader.test(url)) return { format: 'module', source: '', shortCircuit: true };
  return nextLoad(url, context);
}
