import type net from 'node:net';
import { setSocketOption } from './set-socket-option.ts';

/** IPPROTO_TCP and TCP_USER_TIMEOUT (linux/tcp.h) */
const tcpLevel = 6;
const userTimeout = 18;

/**
 * Data that the other host does not acknowledge for so long end the connection. Keepalive does not see
 * to that: while there are such data the kernel only sends them again, for about a quarter of an hour. Node
 * has no call for it. False: it could not be set, or the socket is no TCP.
 */
export function setUserTimeout(socket: net.Socket, ms: number): boolean {
  return socket.remoteAddress !== undefined && setSocketOption(socket, tcpLevel, userTimeout, ms);
}
