import fs from 'node:fs';
import net from 'node:net';
import { StorError } from '@stor/protocol';
import type { Logger } from '@stor/runtime';
import { errorText, parseCall, stateText, type DeviceCall } from './device-messages.ts';
import type { DeviceState } from './device-processes.ts';
import { readLine } from './line-socket.ts';

/** One agent asks one thing at a time; the rest is for people who look. */
const mostConnections = 16;
/** Whoever connects says at once what it wants (ms). */
const callTimeoutMs = 10_000;

/** Carries a call out. The signal aborts when the caller is gone. */
export type AnswerCall = (call: DeviceCall, signal: AbortSignal) => Promise<DeviceState>;

/** The UNIX socket by which a device process is found again: one call for each connection. */
export class DeviceControlServer {
  readonly #server: net.Server;
  /** connections that have not said what they want */
  readonly #silent = new Set<net.Socket>();
  readonly #calls = new Set<Promise<void>>();
  readonly #answer: AnswerCall;
  readonly #logger: Logger;

  private constructor(answer: AnswerCall, logger: Logger) {
    this.#answer = answer;
    this.#logger = logger;
    this.#server = net.createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket));
    this.#server.maxConnections = mostConnections;
  }

  static async listen(
    path: string,
    answer: AnswerCall,
    logger: Logger,
  ): Promise<DeviceControlServer> {
    const control = new DeviceControlServer(answer, logger);
    // of a process that was killed; that none lives was seen before
    fs.rmSync(path, { force: true });
    await new Promise<void>((resolve, reject) => {
      control.#server.once('error', reject);
      control.#server.listen(path, resolve);
    });
    fs.chmodSync(path, 0o600);
    control.#server.on('error', (error) => {
      logger.error({ error: error.message }, 'the control socket has failed');
    });
    return control;
  }

  /** Waits for the calls that are being carried out; their answers arrive. Works twice. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const socket of this.#silent) socket.destroy();
    await Promise.all(this.#calls);
    await closed;
  }

  #accept(socket: net.Socket): void {
    const served = this.#serve(socket).finally(() => this.#calls.delete(served));
    this.#calls.add(served);
  }

  /** Never rejects. */
  async #serve(socket: net.Socket): Promise<void> {
    const gone = new AbortController();
    this.#silent.add(socket);
    socket.on('error', () => {});
    // the other side ends only when it wants no answer any more
    socket.once('end', () => gone.abort());
    socket.once('close', () => {
      this.#silent.delete(socket);
      gone.abort();
    });
    const timer = setTimeout(() => socket.destroy(), callTimeoutMs);
    try {
      const line = await readLine(socket);
      clearTimeout(timer);
      this.#silent.delete(socket);
      if (line === null) socket.destroy();
      else await ended(socket, `${await this.#answerTo(line, gone.signal)}\n`);
    } catch (error) {
      this.#logger.warn({ error: (error as Error).message }, 'a call was not understood');
      socket.destroy();
    } finally {
      clearTimeout(timer);
    }
  }

  async #answerTo(line: string, signal: AbortSignal): Promise<string> {
    try {
      const call = parseCall(line);
      if (call.call !== 'state') this.#logger.info({ ...call }, 'called');
      return stateText(await this.#answer(call, signal));
    } catch (error) {
      const known = StorError.from(error);
      this.#logger.warn({ code: known.code, error: known.message }, 'a call has failed');
      return errorText(known);
    }
  }
}

/** Resolves when it has been sent, or the other side is gone. */
function ended(socket: net.Socket, text: string): Promise<void> {
  return new Promise((resolve) => {
    if (socket.destroyed) {
      resolve();
      return;
    }
    socket.once('close', () => resolve());
    socket.end(text, () => {
      resolve();
      socket.destroySoon();
    });
  });
}
