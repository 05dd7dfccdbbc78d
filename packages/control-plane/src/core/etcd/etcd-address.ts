import { StorError } from '@stor/protocol';

export interface EtcdAddress {
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
const prefixPattern = /^[A-Za-z0-9._-]+(\/[A-Za-z0-9._-]+)*$/;
/** leaves room for Stor's own keys within what the embedded store takes, too (characters) */
const maxPrefixLength = 64;

function invalid(text: string, problem: string): StorError {
  return new StorError(
    'INVALID_ARGUMENT',
    `${JSON.stringify(text)} is no address of an etcd store: ${problem}; give etcd://HOST:PORT[,HOST:PORT...][/PREFIX]`,
  );
}

/** `etcd://10.0.0.1:2379,10.0.0.2:2379/prod`. INVALID_ARGUMENT says what is wrong. */
export function parseEtcdAddress(text: string): EtcdAddress {
  if (!text.startsWith(scheme)) throw invalid(text, `it does not begin with ${scheme}`);
  const [list = '', ...rest] = text.slice(scheme.length).split('/');
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
  if (path === '') return { endpoints, prefix: defaultPrefix };
  if (!prefixPattern.test(path) || path.length > maxPrefixLength) {
    throw invalid(
      text,
      `the prefix ${JSON.stringify(path)} may have letters, digits, ".", "_", "-" and single slashes, ${maxPrefixLength} characters at most`,
    );
  }
  return { endpoints, prefix: `${path}/` };
}
