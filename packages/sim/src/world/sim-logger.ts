import type { Logger } from '@stor/runtime';

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

export interface LogSink {
  (level: LogLevel, node: string, fields: object, message: string): void;
}

/** A logger that hands everything to one place, with the node it comes from. */
export function simLogger(node: string, sink: LogSink, bound: object = {}): Logger {
  const at =
    (level: LogLevel) =>
    (fields: object, message: string): void => {
      sink(level, node, { ...bound, ...fields }, message);
    };
  return {
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    child: (fields) => simLogger(node, sink, { ...bound, ...fields }),
  };
}
