import type net from 'node:net';
import { setSocketOption } from './set-socket-option.ts';

/** SOL_SOCKET and SO_SNDBUF (asm-generic/socket.h) */
const socketLevel = 1;
const sendBuffer = 7;

/**
 * How much the kernel takes of what a socket is given before the other side reads it (bytes); it gives
 * no more than `net.core.wmem_max`. Not for TCP, whose buffers grow by themselves until one is set.
 * False: it could not be set.
 */
export function setSendBuffer(socket: net.Socket, bytes: number): boolean {
  return setSocketOption(socket, socketLevel, sendBuffer, bytes);
}
