import { readFileSync } from 'node:fs';

/** The version of this build, from the package's own manifest (same for sources and build). */
export const agentVersion: string = (() => {
  for (const relative of ['../package.json', '../../package.json']) {
    try {
      const manifest = JSON.parse(readFileSync(new URL(relative, import.meta.url), 'utf8')) as {
        version: string;
      };
      return manifest.version;
    } catch {
      continue;
    }
  }
  return 'unknown';
})();
