import { readFileSync } from 'node:fs';
import { StorError } from '@stor/protocol';

/** A user of etcd. The password is read at every login, so that it can be changed while agents run. */
export interface EtcdLogin {
  user: string;
  /** INVALID_ARGUMENT when it cannot be read. */
  password: () => string;
}

/** INVALID_ARGUMENT when only one of both is given, or the file cannot be read. */
export function etcdLogin(user: string | null, passwordFile: string | undefined): EtcdLogin | null {
  if (user === null && passwordFile === undefined) return null;
  if (user === null) {
    throw new StorError(
      'INVALID_ARGUMENT',
      'a password file of etcd is given, and no user: write etcd://USER@HOST:PORT',
    );
  }
  if (passwordFile === undefined) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `etcd user ${user} needs a password: put it into a file and give --etcd-password-file (etcdPasswordFile in the config)`,
    );
  }
  const password = (): string => readPassword(passwordFile);
  password();
  return { user, password };
}

function readPassword(path: string): string {
  let text: string;
  try {
    text = readFileSync(path, 'utf8').replace(/\r?\n$/, '');
  } catch (cause) {
    const { message } = cause as Error;
    throw new StorError('INVALID_ARGUMENT', `the password file of etcd ${path}: ${message}`, {
      cause,
    });
  }
  if (text !== '') return text;
  throw new StorError('INVALID_ARGUMENT', `the password file of etcd ${path} is empty`);
}
