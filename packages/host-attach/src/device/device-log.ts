import fs from 'node:fs';
import type { Logger } from '@stor/runtime';

/** A log that has grown to this (bytes) begins anew: a device lives for years. */
const mostLogBytes = 8 * 1024 * 1024;

/**
 * JSON lines on standard output, like the agent's. A line that cannot be written is dropped: a disk
 * that is full must not end a device.
 */
export function openDeviceLog(fields: object, fd = 1): Logger {
  const write = (level: string, own: object, more: object, message: string): void => {
    const time = new Date().toISOString();
    try {
      const line = JSON.stringify({ level, time, ...own, ...more, msg: message });
      if (fs.fstatSync(fd).size > mostLogBytes) fs.ftruncateSync(fd, 0);
      fs.writeSync(fd, `${line}\n`);
    } catch {
      // nobody to tell
    }
  };
  const logger = (own: object): Logger => ({
    debug() {},
    info: (more, message) => write('info', own, more, message),
    warn: (more, message) => write('warn', own, more, message),
    error: (more, message) => write('error', own, more, message),
    child: (more) => logger({ ...own, ...more }),
  });
  return logger(fields);
}
