import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { StorError } from '@stor/protocol';
import { parse } from 'yaml';

const endpointPattern = /^(?:[A-Za-z0-9._-]+|\[[0-9A-Za-z:.%]+\]):([0-9]{1,5})$/;

/**
 * The API addresses to use: `--endpoints`, else STOR_ENDPOINTS, else the nearest
 * `.stor/cluster.yaml` at or above the working directory, else the one of the checkout that
 * storctl itself lies in. Throws INVALID_ARGUMENT when there is none or one is malformed.
 */
export function findEndpoints(sources: {
  flag: string | undefined;
  env: Readonly<Record<string, string | undefined>>;
  cwd: string;
  /** folder of the program, or null when it belongs to no checkout */
  programDir: string | null;
}): string[] {
  if (sources.flag !== undefined) return parseEndpoints(sources.flag, '--endpoints');
  const fromEnv = sources.env['STOR_ENDPOINTS'];
  if (fromEnv !== undefined && fromEnv.trim() !== '') {
    return parseEndpoints(fromEnv, 'STOR_ENDPOINTS');
  }
  const file =
    findClusterFile(sources.cwd) ??
    (sources.programDir === null ? null : findClusterFile(sources.programDir));
  if (file !== null) return readClusterFile(file);
  throw new StorError(
    'INVALID_ARGUMENT',
    'no cluster to talk to: give --endpoints HOST:PORT[,HOST:PORT...], set STOR_ENDPOINTS, or start a cluster in this checkout with "npm run up"',
  );
}

function parseEndpoints(text: string, source: string): string[] {
  const endpoints = text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '');
  return checkEndpoints(endpoints, source);
}

function checkEndpoints(endpoints: readonly string[], source: string): string[] {
  for (const endpoint of endpoints) {
    const port = Number(endpointPattern.exec(endpoint)?.[1] ?? NaN);
    if (!(port >= 1 && port <= 65_535)) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `endpoint ${JSON.stringify(endpoint)} of ${source} is not valid: write HOST:PORT, for example 10.0.0.5:17110 or [fd00::5]:17110`,
      );
    }
  }
  if (endpoints.length === 0) {
    throw new StorError('INVALID_ARGUMENT', `${source} names no endpoint: write HOST:PORT`);
  }
  return [...new Set(endpoints)];
}

function findClusterFile(from: string): string | null {
  for (let folder = resolve(from); ; folder = dirname(folder)) {
    const file = join(folder, '.stor', 'cluster.yaml');
    if (existsSync(file)) return file;
    if (folder === dirname(folder)) return null;
  }
}

function readClusterFile(file: string): string[] {
  let content: unknown;
  try {
    content = parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `cannot read ${file}: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
  }
  const endpoints: unknown =
    typeof content === 'object' && content !== null && 'endpoints' in content
      ? content.endpoints
      : undefined;
  if (!Array.isArray(endpoints) || !endpoints.every((item) => typeof item === 'string')) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `${file} has no list "endpoints" of HOST:PORT: give --endpoints or set STOR_ENDPOINTS`,
    );
  }
  return checkEndpoints(endpoints, file);
}
