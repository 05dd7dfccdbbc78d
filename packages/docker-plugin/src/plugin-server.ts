import { chmod, lstat, mkdir, rm } from 'node:fs/promises';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import { StorError } from '@stor/protocol';
import type { Logger } from '@stor/runtime';
import { maxBodyBytes, maxConnections, requestTimeoutMs } from './core/limits.ts';
import { refusal, type PluginAnswer, type PluginCalls } from './plugin-calls.ts';

/** dockerd takes 1 and 1.1 too, and says 1.2 itself. */
const contentType = 'application/vnd.docker.plugins.v1.2+json';
/** So much of a request that is too large is read and thrown away, so that its sender reads the answer. */
const maxDiscardedBytes = 16 * 1024 * 1024;
/** What the kernel has room for in the address of a UNIX socket (bytes). */
const maxSocketPathBytes = 107;

/** HTTP for dockerd on a UNIX socket that only root may use. */
export class PluginServer {
  readonly #server: http.Server;
  readonly #calls: PluginCalls;
  /** of requests that have come whole, until they are answered */
  readonly #exchanges: ReadonlySet<Promise<void>>;
  #closing: Promise<void> | null = null;

  private constructor(
    server: http.Server,
    calls: PluginCalls,
    exchanges: ReadonlySet<Promise<void>>,
  ) {
    this.#server = server;
    this.#calls = calls;
    this.#exchanges = exchanges;
  }

  /**
   * INVALID_ARGUMENT (the path), IN_USE (another process serves there), FAILED_PRECONDITION (something else
   * is there). What a killed agent has left is replaced.
   */
  static async listen(options: {
    socket: string;
    calls: PluginCalls;
    logger: Logger;
  }): Promise<PluginServer> {
    const { socket, calls, logger } = options;
    checkSocketPath(socket);
    await mkdir(path.dirname(socket), { recursive: true });
    await removeStale(socket);
    const exchanges = new Set<Promise<void>>();
    const server = http.createServer(
      { requestTimeout: requestTimeoutMs, headersTimeout: requestTimeoutMs },
      (request, response) => {
        serve(calls, { request, response, exchanges }).catch((error: unknown) => {
          logger.error({ error: StorError.from(error).message }, 'a request of Docker failed');
          response.destroy();
        });
      },
    );
    server.maxConnections = maxConnections;
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause) => {
        const text = `cannot listen for Docker on ${socket}: ${cause.message}`;
        reject(new StorError('FAILED_PRECONDITION', text, { cause }));
      });
      server.listen(socket, resolve);
    });
    await chmod(socket, 0o600);
    return new PluginServer(server, calls, exchanges);
  }

  /**
   * Takes no more calls, ends or waits for those under way, and removes the socket. dockerd tries calls
   * that were cut off again for half a minute. Works twice.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => {
        resolve();
      });
    });
    await this.#calls.end();
    await Promise.all(this.#exchanges);
    this.#server.closeAllConnections();
    await closed;
  }
}

export function checkSocketPath(socket: string): void {
  if (!path.isAbsolute(socket)) {
    throw new StorError('INVALID_ARGUMENT', `socket path ${socket} is not absolute`);
  }
  const length = Buffer.byteLength(socket);
  if (length <= maxSocketPathBytes) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `socket path ${socket} has ${length} bytes, and a UNIX socket has room for ${maxSocketPathBytes}: choose a shorter one`,
  );
}

async function removeStale(socket: string): Promise<void> {
  const found = await lstat(socket).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  });
  if (!found) return;
  if (!found.isSocket()) {
    throw new StorError(
      'FAILED_PRECONDITION',
      `${socket} is there and is no socket: remove it, or choose another path`,
    );
  }
  if (await isServed(socket)) {
    throw new StorError(
      'IN_USE',
      `another process serves ${socket}: stop it, or choose another name for this plug-in`,
    );
  }
  await rm(socket, { force: true });
}

function isServed(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = net.connect(socket);
    connection.once('connect', () => {
      connection.destroy();
      resolve(true);
    });
    connection.once('error', (error: NodeJS.ErrnoException) => {
      // anything else, as a full queue, is a sign of life
      resolve(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT');
    });
  });
}

interface Exchange {
  request: http.IncomingMessage;
  response: http.ServerResponse;
  exchanges: Set<Promise<void>>;
}

async function serve(
  calls: PluginCalls,
  { request, response, exchanges }: Exchange,
): Promise<void> {
  let isGone = false;
  const closed = new Promise<void>((resolve) => {
    response.once('close', () => {
      isGone = true;
      resolve();
    });
  });
  const text = await readText(request);
  if (text === 'broken') {
    response.destroy();
    return;
  }
  const exchange: Promise<void> = respond(text).finally(() => exchanges.delete(exchange));
  exchanges.add(exchange);
  return exchange;

  async function respond(sent: RequestText): Promise<void> {
    const answer = await answerTo(calls, request, sent);
    let hasIt = false;
    response.once('finish', () => {
      hasIt = true;
      answer.arrived(true);
    });
    if (answer.isCut) response.destroy();
    else if (!isGone) send(response, answer);
    await closed;
    if (!hasIt) answer.arrived(false);
  }
}

function send(response: http.ServerResponse, { status, body }: PluginAnswer): void {
  const text = `${JSON.stringify(body)}\n`;
  response.writeHead(status, {
    'content-type': contentType,
    'content-length': Buffer.byteLength(text),
    // an idle connection that is closed while dockerd begins a call on it would cost it a repetition
    connection: 'close',
  });
  response.end(text);
}

/** What was sent, unless there was too much of it, or it broke off. */
type RequestText = { text: string } | 'too-large' | 'broken';

async function answerTo(
  calls: PluginCalls,
  { url = '/', method = '' }: http.IncomingMessage,
  sent: RequestText,
): Promise<PluginAnswer> {
  if (calls.has(url) && method !== 'POST') {
    return refusal(405, `${method} is not known: calls are sent with POST`);
  }
  if (typeof sent === 'string') {
    return refusal(413, `the request is larger than ${maxBodyBytes} bytes`);
  }
  return calls.answer(url, sent.text);
}

async function readText(request: http.IncomingMessage): Promise<RequestText> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of request as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > maxDiscardedBytes) return 'broken';
      if (bytes <= maxBodyBytes) chunks.push(chunk);
    }
  } catch {
    return 'broken';
  }
  return bytes > maxBodyBytes ? 'too-large' : { text: Buffer.concat(chunks).toString() };
}
