import { existsSync, readFileSync } from 'node:fs';

/** The version in this package's package.json, which lies above src/ and above dist/src/. */
export function packageVersion(): string {
  for (const path of ['../package.json', '../../package.json']) {
    const url = new URL(path, import.meta.url);
    if (!existsSync(url)) continue;
    const { version } = JSON.parse(readFileSync(url, 'utf8')) as { version: string };
    return version;
  }
  return 'unknown';
}
