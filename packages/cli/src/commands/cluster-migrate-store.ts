import type { Command } from 'commander';
import { StorError } from '@stor/protocol';
import type { RunAction } from '../command-context.ts';
import { confirmUnsafe } from '../confirm.ts';

interface MigrateStoreOptions {
  to?: string;
  etcdCa?: string;
  etcdCert?: string;
  etcdKey?: string;
  etcdPasswordFile?: string;
  abort?: true;
  yes?: true;
}

export function addMigrateStoreCommand(cluster: Command, run: RunAction): void {
  cluster
    .command('migrate-store')
    .description("move the cluster's state to an etcd, or back (docs/operating/etcd.md)")
    .option('--to <address>', 'etcd://[USER@]HOST:PORT[,HOST:PORT...][/PREFIX], or embedded')
    .option('--etcd-ca <path>', 'PEM file on every node: the authority of the etcd servers')
    .option('--etcd-cert <path>', "PEM file on every node: the agents' certificate for etcd")
    .option('--etcd-key <path>', 'PEM file on every node: the key of --etcd-cert')
    .option('--etcd-password-file <path>', 'file on every node: the password of USER')
    .option('--abort', 'give up a move that has not been finished')
    .option('-y, --yes', 'do not ask')
    .addHelpText(
      'after',
      `
Nothing is created, attached or repaired while the state is copied; attached volumes go on. Then every
agent begins anew with the other store: clients of volumes are cut off for some seconds. Repeat the
command after any error, it goes on where it was.

Examples:
  storctl cluster migrate-store --to etcd://10.0.0.1:2379,10.0.0.2:2379/prod
  storctl cluster migrate-store --to embedded
  storctl cluster migrate-store --abort`,
    )
    .action(async (options: MigrateStoreOptions, command: Command) =>
      run(command.optsWithGlobals(), async ({ api, print, call, io }) => {
        const { to = '', abort = false, etcdCa = '', etcdCert = '', etcdKey = '' } = options;
        const { etcdPasswordFile: passwordFile = '' } = options;
        if (abort === (to !== '')) {
          throw new StorError('INVALID_ARGUMENT', 'give either --to ADDRESS or --abort');
        }
        if (!abort) {
          await confirmUnsafe(io, options.yes === true, {
            action: `Move the cluster's state to ${to}`,
            risks: [
              'every agent begins anew, which cuts off the clients of volumes for some seconds',
            ],
            left: 'the store was not changed',
          });
        }
        const request = { to, ca: etcdCa, cert: etcdCert, key: etcdKey, passwordFile, abort };
        const { keys } = await api.moveStore(request, call);
        print.answer(
          { to, keys, aborted: abort },
          abort
            ? 'The move was given up: the cluster stays where it is.'
            : `The cluster is in ${to === 'embedded' ? 'the embedded store' : to} (${keys} keys). Agents begin anew within seconds; set "store: ${to}" in their configs.`,
        );
      }),
    );
}
