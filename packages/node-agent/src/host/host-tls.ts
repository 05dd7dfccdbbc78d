import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { HostTls } from '@stor/host-attach';
import { parsePskFile } from 'nbd-client-js';
import type { AgentConfig } from '../config.ts';

/**
 * How devices of this host prove to other nodes who they are: as the agent does. They are told of
 * folders and files only, so certificates lie in a folder as NBD clients want it, by links, and new ones
 * count for new connections.
 */
export function hostTls({ nbd }: Pick<AgentConfig, 'nbd'>, folder: string): HostTls | null {
  const tls = nbd?.tls;
  if (!tls || tls.mode === 'off') return null;
  const { pskFile, pskIdentity, ca, cert, key } = tls;
  if (pskFile !== undefined) {
    const username =
      pskIdentity ?? parsePskFile(readFileSync(pskFile, 'utf8'), pskFile).keys().next().value;
    return { pskFile, username };
  }
  const certificates = join(folder, 'tls');
  mkdirSync(certificates, { recursive: true, mode: 0o700 });
  link(join(certificates, 'ca-cert.pem'), ca);
  link(join(certificates, 'client-cert.pem'), cert);
  link(join(certificates, 'client-key.pem'), key);
  return { certificates };
}

function link(path: string, to: string | undefined): void {
  rmSync(path, { force: true });
  if (to !== undefined && existsSync(to)) symlinkSync(to, path);
}
