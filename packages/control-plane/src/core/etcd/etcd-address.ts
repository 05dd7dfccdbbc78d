import { StorError } from '@stor/protocol';

export interface EtcdAddress {
  /** who logs in; null: nobody */
  user: string | null;
  /** HOST:PORT each */
  endpoints: string[];
  /** what all keys of this cluster begin with; ends with a slash */
  prefix: string;
}

const scheme = 'etcd://';
const defaultPrefix = 'stor/';
/** Members of an etcd cluster are three to seven; a longer list is a mistake. */
const maxEndpoints = 16;
const endpointPattern = /^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):(\d{1,5})$/;
const userPattern = /^[A-Za-z0-9._-]{1,64}$/;
const prefixPattern = /^[A-Za-z0-9._-]+(\/[A-Za-z0-9._-]+)*$/;
/** leaves room for Stor's own keys within what the embedded store takes, too (characters) */
const maxPrefixLength = 64;

function invalid(text: string, problem: string): StorError {
  return new StorError(
    'INVALID_ARGUMENT',
    `${JSON.stringify(text)} is no address of an etcd store: ${problem}; give etcd://[USER@]HOST:PORT[,HOST:PORT...][/PREFIX]`,
  );
}

/** `etcd://10.0.0.1:2379,10.0.0.2:2379/prod`. INVALID_ARGUMENT says what is wrong. */
export function parseEtcdAddress(text: string): EtcdAddress {
  if (!text.startsWith(scheme)) throw invalid(text, `it does not begin with ${scheme}`);
  const { user, after } = userOf(text);
  const [list = '', ...rest] = after.split('/');
  const endpoints = list.split(',');
  for (const endpoint of endpoints) {
    const match = endpointPattern.exec(endpoint);
    const port = Number(match?.[2]);
    if (!match || port < 1 || port > 65_535) {
      throw invalid(text, `${JSON.stringify(endpoint)} is not HOST:PORT`);
    }
  }
  if (new Set(endpoints).size !== endpoints.length) throw invalid(text, 'an endpoint is twice');
  if (endpoints.length > maxEndpoints) throw invalid(text, `more than ${maxEndpoints} endpoints`);
  const path = rest.join('/').replace(/\/$/, '');
  if (path === '') return { user, endpoints, prefix: defaultPrefix };
  if (!prefixPattern.test(path) || path.length > maxPrefixLength) {
    throw invalid(
      text,
      `the prefix ${JSON.stringify(path)} may have letters, digits, ".", "_", "-" and single slashes, ${maxPrefixLength} characters at most`,
    );
  }
  return { user, endpoints, prefix: `${path}/` };
}

/** A password is refused without repeating it: addresses are seen in configs, logs and lists of processes. */
function userOf(text: string): { user: string | null; after: string } {
  const rest = text.slice(scheme.length);
  const at = rest.lastIndexOf('@');
  if (at < 0) return { user: null, after: rest };
  const user = rest.slice(0, at);
  const after = rest.slice(at + 1);
  if (user.includes(':')) {
    throw invalid(
      `${scheme}${user.slice(0, user.indexOf(':'))}:…@${after}`,
      'a password does not belong into it: put it into a file and give --etcd-password-file (etcdPasswordFile in the config)',
    );
  }
  if (!userPattern.test(user)) {
    throw invalid(text, `the user ${JSON.stringify(user)} may have letters, digits, ".", "_", "-"`);
  }
  return { user, after };
}
