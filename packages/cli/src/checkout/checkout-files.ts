import { randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { StorError } from '@stor/protocol';
import { parse, stringify } from 'yaml';
import {
  agentConfig,
  planLayout,
  type AgentPaths,
  type CheckoutLayout,
  type CheckoutNode,
} from './checkout-layout.ts';

/** sun_path of unix(7) has 108 bytes, the last one a 0. */
const maxSocketPathBytes = 107;
const longestSocketName = 'nbd-9.sock';

export interface NodeFiles {
  dir: string;
  configFile: string;
  pidFile: string;
  logFile: string;
}

export function nodeFiles(stateDir: string, name: string): NodeFiles {
  const dir = join(stateDir, name);
  return {
    dir,
    configFile: join(dir, 'config.yaml'),
    pidFile: join(dir, 'agent.pid'),
    logFile: join(dir, 'agent.log'),
  };
}

/** Reads cluster.yaml, or null when there is none. Throws FOREIGN_DATA when it is damaged. */
export function readLayout(stateDir: string): CheckoutLayout | null {
  const file = join(stateDir, 'cluster.yaml');
  if (!existsSync(file)) return null;
  const value = parse(readFileSync(file, 'utf8')) as CheckoutLayout | null;
  if (
    typeof value?.clusterId !== 'string' ||
    !Array.isArray(value.nodes) ||
    value.nodes.length === 0
  ) {
    throw new StorError(
      'FOREIGN_DATA',
      `${file} is damaged: restore it, or remove the cluster and its data with "npm run down -- --purge"`,
    );
  }
  return value;
}

/**
 * Reads the layout of the cluster in `stateDir`, or makes a new one. cluster.yaml appears last and
 * whole, before any agent starts; so data without it means that somebody removed it.
 */
export function openLayout(
  stateDir: string,
  wanted: { nodes: number; basePort: number },
): CheckoutLayout {
  const existing = readLayout(stateDir);
  if (existing !== null) return existing;
  const withData = existsSync(stateDir)
    ? readdirSync(stateDir).find((name) => existsSync(join(stateDir, name, 'data')))
    : undefined;
  if (withData !== undefined) {
    throw new StorError(
      'FOREIGN_DATA',
      `${stateDir} holds data of a cluster (${withData}/data) but no cluster.yaml, so its ids are not known: restore cluster.yaml, or remove everything with "npm run down -- --purge"`,
    );
  }
  const layout = planLayout({ ...wanted, randomBytes: (length) => randomBytes(length) });
  mkdirSync(stateDir, { recursive: true });
  writeWhole(join(stateDir, 'cluster.yaml'), stringify(layout));
  return layout;
}

/**
 * Makes the folders and the config file of a node. An existing config keeps what people changed in
 * it, except for the paths when the checkout was moved.
 */
export function prepareNode(stateDir: string, layout: CheckoutLayout, node: CheckoutNode): void {
  const files = nodeFiles(stateDir, node.name);
  mkdirSync(files.dir, { recursive: true });
  const config = existsSync(files.configFile)
    ? (parse(readFileSync(files.configFile, 'utf8')) as Record<string, unknown>)
    : null;
  const dataDir = join(files.dir, 'data');
  let nbdUnixDir = config?.['nbdUnixDir'];
  if (config === null || config['dataDir'] !== dataDir) {
    const paths: AgentPaths = {
      dataDir,
      pidFile: files.pidFile,
      nbdUnixDir: socketFolder(files.dir),
    };
    nbdUnixDir = paths.nbdUnixDir;
    const content = config === null ? agentConfig(layout, node, paths) : { ...config, ...paths };
    writeWhole(files.configFile, stringify(content));
  }
  mkdirSync(dataDir, { recursive: true });
  // Whoever can open a socket in there reads and writes every volume.
  if (typeof nbdUnixDir === 'string') mkdirSync(nbdUnixDir, { recursive: true, mode: 0o700 });
}

/** A deep checkout does not fit into a socket's path: then a private folder of the system serves. */
function socketFolder(nodeDir: string): string {
  const folder = join(nodeDir, 'run');
  const bytes = Buffer.byteLength(join(folder, longestSocketName));
  return bytes <= maxSocketPathBytes ? folder : mkdtempSync(join(tmpdir(), 'stor-'));
}

function writeWhole(path: string, text: string): void {
  const temporary = `${path}.new`;
  writeFileSync(temporary, text);
  renameSync(temporary, path);
}
