import { connect as connectTcp } from 'node:net';
import { connect, type ConnectionOptions } from 'node:tls';

/** A server that says nothing for so long has nothing against the connection (ms). */
const quietMs = 300;
const connectMs = 1_000;

/** What a connection is made with. */
export interface ConnectionFiles {
  /** the path, for the message, and what it holds */
  ca: { path: string; pem: Buffer };
  cert: Buffer | null;
  key: Buffer | null;
}

/**
 * Why a connection to an etcd server fails, in words for an operator; null when it does not, or the
 * reason is none of TLS. gRPC keeps such reasons to itself, so the handshake is tried once more.
 */
export function explainConnection(
  address: string,
  files: ConnectionFiles | null,
): Promise<string | null> {
  const at = address.lastIndexOf(':');
  const host = address.slice(0, at).replace(/^\[|\]$/g, '');
  const port = Number(address.slice(at + 1));
  return files ? explainTls(host, port, files) : explainPlain(host, port);
}

function explainTls(host: string, port: number, files: ConnectionFiles): Promise<string | null> {
  const { ca, cert, key } = files;
  const options: ConnectionOptions = {
    host,
    port,
    ca: ca.pem,
    ...(cert && key ? { cert, key } : {}),
    ALPNProtocols: ['h2'],
    timeout: connectMs,
    ...(/[a-zA-Z]/.test(host) && !host.includes(':') ? { servername: host } : {}),
  };
  return new Promise((resolve) => {
    let timer: NodeJS.Timeout | undefined;
    const end = (reason: string | null): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(reason);
    };
    const socket = connect(options, () => {
      // a server of TLS 1.3 judges the client's certificate after the client is done
      timer = setTimeout(() => {
        end(null);
      }, quietMs);
    });
    socket.on('timeout', () => {
      end(null);
    });
    socket.on('error', (error: NodeJS.ErrnoException) => {
      end(reasonOf(error, ca.path, cert !== null));
    });
    socket.on('close', () => {
      end(null);
    });
  });
}

/** By the codes of OpenSSL, as Node gives them. */
function reasonOf(error: NodeJS.ErrnoException, ca: string, hasCert: boolean): string | null {
  const { code = '', message } = error;
  if (/SELF_SIGNED|UNABLE_TO|CERT_SIGNATURE|CERT_UNTRUSTED/.test(code)) {
    return `the certificate of the server is not signed by the authority in ${ca} (${message})`;
  }
  if (code === 'CERT_HAS_EXPIRED') return 'the certificate of the server has expired: renew it';
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    return `the certificate of the server is for another name (${message})`;
  }
  if (/WRONG_VERSION|PACKET_LENGTH|HTTP_REQUEST/.test(code)) {
    return 'the server does not speak TLS: leave the certificates out, or turn TLS on there';
  }
  if (/ALERT_CERTIFICATE_REQUIRED|ALERT_HANDSHAKE_FAILURE/.test(code) && !hasCert) {
    return 'the server wants a certificate of its clients: give --etcd-cert and --etcd-key';
  }
  if (/ALERT_(BAD_CERTIFICATE|CERTIFICATE_UNKNOWN)/.test(code) && !hasCert) {
    return 'the server wants a certificate of its clients: give --etcd-cert and --etcd-key';
  }
  if (/ALERT_CERTIFICATE_EXPIRED/.test(code)) {
    return 'the server refuses the certificate of this node: it has expired; renew it';
  }
  if (/ALERT/.test(code)) {
    return `the server refuses the certificate of this node: it must be signed by the authority that the server trusts, and be valid now (${message})`;
  }
  return null;
}

/** Without certificates: does the server speak TLS? */
function explainPlain(host: string, port: number): Promise<string | null> {
  return new Promise((resolve) => {
    const end = (reason: string | null): void => {
      clearTimeout(timer);
      socket.destroy();
      tcp.destroy();
      resolve(reason);
    };
    const tcp = connectTcp({ host, port, timeout: connectMs });
    const socket = connect({ socket: tcp, rejectUnauthorized: false }, () => {
      end('the server speaks TLS: give its authority with --etcd-ca');
    });
    const timer = setTimeout(() => {
      end(null);
    }, connectMs);
    for (const each of [tcp, socket]) {
      each.on('error', (error: NodeJS.ErrnoException) => {
        const isTls = /ALERT/.test(error.code ?? '');
        end(isTls ? 'the server speaks TLS: give its authority with --etcd-ca' : null);
      });
    }
    tcp.on('timeout', () => {
      end(null);
    });
  });
}
