import { resolve } from 'node:path';
import type { Command } from 'commander';
import { StorError, nbdUriOf } from '@stor/protocol';
import { formatNbdUri, parseNbdUri } from 'nbd-client-js';
import type { CommandContext, RunAction } from '../command-context.ts';
import { addNbdTlsOptions } from '../nbd-tls-options.ts';

export function addUriCommand(volume: Command, run: RunAction): void {
  const uri = volume
    .command('uri')
    .argument('<volume>', 'name or id')
    .option('--node <node>', 'through this node (name or id) instead of the one that serves it')
    .description('print the NBD address of a volume, for any NBD client')
    .addHelpText(
      'after',
      `
It begins with nbds:// where the node requires TLS. With the options for TLS, or their variables, it names
the files too, for programs on libnbd.

Examples:
  nbdinfo "$(storctl volume uri db)"
  storctl volume uri db --node n2
  storctl volume uri db --tls-psk-file keys.psk --tls-username alice`,
    )
    .action(async (name: string, options: { node?: string }, command: Command) =>
      run(command.optsWithGlobals(), async (context) => {
        const text = withTls(await uriOf(context, name, options.node), context);
        context.print.answer({ nbdUri: text }, `${text}\n`);
      }),
    );
  addNbdTlsOptions(uri);
}

async function uriOf(
  { api, call }: CommandContext,
  name: string,
  nodeName: string | undefined,
): Promise<string> {
  const found = await api.getVolume({ name }, call);
  if (nodeName === undefined) return found.status.nbdUri;
  const node = await api.getNode({ name: nodeName }, call);
  const { addresses } = node.status;
  const address = addresses.nbd[0];
  if (address === undefined) {
    throw new StorError('UNAVAILABLE', `node ${node.metadata.name} serves no NBD at the moment`);
  }
  return nbdUriOf({ address, tls: addresses.nbdTls, exportName: found.metadata.name });
}

/** Whole paths: the URI is for programs that may run elsewhere. */
function withTls(uri: string, { nbdTls, io }: CommandContext): string {
  if (!nbdTls || uri === '') return uri;
  const { certificates, pskFile, ...rest } = nbdTls;
  const whole = (path: string | undefined): string | undefined =>
    path === undefined ? undefined : resolve(io.cwd, path);
  const tls = { ...rest, certificates: whole(certificates), pskFile: whole(pskFile) };
  return formatNbdUri({ ...parseNbdUri(uri), tls });
}
