import http from 'node:http';
import { StorError } from '@stor/protocol';
import type { MetricsPage } from '@stor/runtime';

/** A scrape or probe that sends its request slower than this is cut off (ms). */
const requestTimeoutMs = 5_000;

/**
 * `/metrics` for Prometheus; `/healthz`: the process works (else restart it); `/readyz`: it holds
 * its node lease, its disks are recorded and the control plane has a leader (else send no clients).
 */
export class HttpServer {
  readonly #server: http.Server;
  readonly port: number;

  private constructor(server: http.Server, port: number) {
    this.#server = server;
    this.port = port;
  }

  static listen(options: {
    host: string;
    port: number;
    metrics: MetricsPage;
    /** empty when healthy, else what is wrong */
    health: () => Promise<string>;
    readiness: () => { ready: boolean; reason: string };
  }): Promise<HttpServer> {
    const server = http.createServer({ requestTimeout: requestTimeoutMs }, (request, response) => {
      answer(options, request.url ?? '/').then(
        ({ status, type, body }) => {
          response.writeHead(status, { 'content-type': type }).end(body);
        },
        (error: unknown) => {
          response
            .writeHead(500, { 'content-type': 'text/plain' })
            .end(`${StorError.from(error).message}\n`);
        },
      );
    });
    return new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen(options.port, options.host, () => {
        server.off('error', reject);
        const address = server.address();
        resolve(
          new HttpServer(
            server,
            typeof address === 'object' && address ? address.port : options.port,
          ),
        );
      });
    });
  }

  close(): Promise<void> {
    return new Promise((resolve) => {
      this.#server.close(() => {
        resolve();
      });
      this.#server.closeAllConnections();
    });
  }
}

async function answer(
  options: Parameters<typeof HttpServer.listen>[0],
  url: string,
): Promise<{ status: number; type: string; body: string }> {
  const text = (status: number, body: string): { status: number; type: string; body: string } => ({
    status,
    type: 'text/plain; charset=utf-8',
    body: `${body}\n`,
  });
  switch (url.split('?')[0]) {
    case '/metrics':
      return { status: 200, type: options.metrics.contentType, body: await options.metrics.text() };
    case '/healthz': {
      const problem = await options.health();
      return problem === '' ? text(200, 'ok') : text(503, problem);
    }
    case '/readyz': {
      const { ready, reason } = options.readiness();
      return ready ? text(200, 'ready') : text(503, reason);
    }
    default:
      return text(404, 'not found: there are /metrics, /healthz and /readyz');
  }
}
