import type net from 'node:net';
import { StorError } from '@stor/protocol';

/** Of a message: 256 addresses are far below (bytes). */
const mostLineBytes = 256 * 1024;

/**
 * The first line that comes; null when the other side ends without one. PROTOCOL when it is too
 * long. Whatever comes behind is thrown away.
 */
export function readLine(socket: net.Socket): Promise<string | null> {
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = [];
    let total = 0;
    const over = (): void => {
      socket.off('data', onData);
      socket.off('end', onEnd);
      socket.off('close', onEnd);
      // what comes later is read, so that the end is seen
      socket.resume();
    };
    const onData = (part: Buffer): void => {
      parts.push(part);
      total += part.length;
      const end = part.indexOf(0x0a);
      if (end >= 0) {
        over();
        const all = Buffer.concat(parts);
        resolve(all.toString('utf8', 0, total - part.length + end));
      } else if (total > mostLineBytes) {
        over();
        reject(new StorError('PROTOCOL', `a message of more than ${mostLineBytes} bytes`));
      }
    };
    const onEnd = (): void => {
      over();
      resolve(null);
    };
    socket.on('data', onData);
    socket.once('end', onEnd);
    socket.once('close', onEnd);
  });
}
