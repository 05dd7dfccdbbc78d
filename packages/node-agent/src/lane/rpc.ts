import { StorError, type ErrorCode } from '@stor/protocol';

/** The part of a worker's port that is needed; both ends of a lane have one. */
export interface Port {
  postMessage(message: unknown): void;
  on(event: 'message', listener: (message: unknown) => void): unknown;
}

type Handlers<T> = { [K in keyof T]: T[K] };

interface Call {
  kind: 'call';
  id: number;
  method: string;
  args: unknown[];
}
interface Answer {
  kind: 'answer';
  id: number;
  result?: unknown;
  error?: { code: ErrorCode; message: string; details: Record<string, string> };
}

/**
 * Calls between the agent's main thread and a lane, both ways over one port. Control traffic only:
 * nothing on the data path of a request crosses it (a thread hop costs about 45 us).
 */
export class LaneRpc<Remote extends object> {
  readonly #port: Port;
  readonly #waiting = new Map<
    number,
    { resolve: (value: unknown) => void; reject: (error: StorError) => void }
  >();
  #nextId = 1;
  #closed: StorError | null = null;
  /** the other side's methods, each answering with a promise */
  readonly remote: Remote;

  constructor(port: Port, handlers: Handlers<object>) {
    this.#port = port;
    port.on('message', (message) => {
      const frame = message as Call | Answer;
      if (frame.kind === 'call') void this.#serve(frame, handlers);
      else this.#settle(frame);
    });
    this.remote = new Proxy({} as Remote, {
      get:
        (_target, method) =>
        (...args: unknown[]) =>
          this.#call(String(method), args),
    });
  }

  /** Everything that waits fails, and so does every later call. */
  close(reason: StorError): void {
    this.#closed ??= reason;
    for (const waiting of this.#waiting.values()) waiting.reject(reason);
    this.#waiting.clear();
  }

  #call(method: string, args: unknown[]): Promise<unknown> {
    if (this.#closed) return Promise.reject(this.#closed);
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#port.postMessage({ kind: 'call', id, method, args } satisfies Call);
    });
  }

  async #serve(call: Call, handlers: object): Promise<void> {
    let answer: Answer;
    try {
      const method = (handlers as Record<string, (...args: unknown[]) => unknown>)[call.method];
      if (!method) throw new StorError('INTERNAL', `no method ${call.method}`);
      answer = { kind: 'answer', id: call.id, result: await method.apply(handlers, call.args) };
    } catch (thrown) {
      const error = StorError.from(thrown);
      answer = {
        kind: 'answer',
        id: call.id,
        error: { code: error.code, message: error.message, details: { ...error.details } },
      };
    }
    this.#port.postMessage(answer);
  }

  #settle(answer: Answer): void {
    const waiting = this.#waiting.get(answer.id);
    if (!waiting) return;
    this.#waiting.delete(answer.id);
    if (answer.error) {
      const { code, message, details } = answer.error;
      waiting.reject(new StorError(code, message, { details }));
    } else {
      waiting.resolve(answer.result);
    }
  }
}
