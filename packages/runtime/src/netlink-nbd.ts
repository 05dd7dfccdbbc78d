import { createRequire } from 'node:module';
import type koffi from 'koffi';
import {
  controlFamily,
  controlFamilyVersion,
  familyOf,
  familyQuery,
  getFamilyCommand,
  nbdAttributes,
  nbdCommand,
  nbdFamilyName,
  nbdFamilyVersion,
  type NbdNetlinkSettings,
} from './core/nbd-netlink.ts';
import {
  decodeNetlinkMessages,
  encodeNetlinkRequest,
  netlinkFlag,
  type NetlinkAttribute,
} from './core/netlink-codec.ts';

/** AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC (linux/netlink.h) */
const netlinkSocket = [16, 3 | 0o2000000, 16] as const;
/** MSG_DONTWAIT */
const dontWait = 0x40;
const noEntry = 2;
const tryAgain = 11;
/** The kernel writes no longer message here (bytes). */
const receiveBytes = 64 * 1024;
/** It answers before the call that sends is over, in some messages; more would be another's. */
const maxAnswers = 64;

interface SystemCalls {
  socket(domain: number, type: number, protocol: number): number;
  /** on a thread of its own, as the kernel may wait for others meanwhile */
  sendto(
    fd: number,
    bytes: Buffer,
    length: number,
    flags: number,
    to: Buffer,
    toLength: number,
    done: (error: Error | null, sent: number) => void,
  ): void;
  recv(fd: number, bytes: Buffer, length: number, flags: number): number;
  close(fd: number): number;
  errno(): number;
}

let loaded: SystemCalls | Error | null = null;

function systemCalls(): SystemCalls {
  if (!loaded) {
    try {
      const ffi = createRequire(import.meta.url)('koffi') as typeof koffi;
      const libc = ffi.load('libc.so.6');
      const sendto = libc.func(
        'int64_t sendto(int fd, const void *bytes, size_t length, int flags, const void *to, uint32_t toLength)',
      );
      loaded = {
        socket: libc.func('int socket(int domain, int type, int protocol)'),
        sendto: sendto.async.bind(sendto) as SystemCalls['sendto'],
        recv: libc.func('int64_t recv(int fd, void *bytes, size_t length, int flags)'),
        close: libc.func('int close(int fd)'),
        errno: () => ffi.errno(),
      };
    } catch (cause) {
      loaded = new Error('no foreign function interface', { cause });
    }
  }
  if (loaded instanceof Error) throw loaded;
  return loaded;
}

/** The kernel has refused. */
export class NetlinkError extends Error {
  readonly errno: number;

  constructor(what: string, number: number) {
    super(`${what}: errno ${number}`);
    this.errno = number;
  }
}

/**
 * The kernel's NBD devices, by generic netlink. Node has no netlink. The kernel carries a request out
 * within the call that sends it, and may wait in it for requests of the device: whoever answers those
 * must be able to go on, so the calls are made on threads.
 */
export class NetlinkNbd {
  readonly #calls: SystemCalls;
  readonly #family: number;

  private constructor(calls: SystemCalls, family: number) {
    this.#calls = calls;
    this.#family = family;
  }

  /** Null: the kernel has no NBD, or its module is not loaded. Throws for all else. */
  static async open(): Promise<NetlinkNbd | null> {
    const calls = systemCalls();
    let answers: Buffer[];
    try {
      answers = await send(calls, {
        what: 'GETFAMILY',
        family: controlFamily,
        version: controlFamilyVersion,
        command: getFamilyCommand,
        attributes: familyQuery(nbdFamilyName),
      });
    } catch (error) {
      if (error instanceof NetlinkError && error.errno === noEntry) return null;
      throw error;
    }
    const family = answers.map(familyOf).find((found) => found !== null);
    if (family === undefined) throw new Error('netlink tells no family of nbd');
    return new NetlinkNbd(calls, family);
  }

  /** The device of this number, which is made if need be; it has this size then. EBUSY: it is in use. */
  async connect(index: number, settings: NbdNetlinkSettings): Promise<void> {
    await this.#ask('CONNECT', nbdCommand.connect, nbdAttributes(index, settings));
  }

  async reconfigure(index: number, settings: NbdNetlinkSettings): Promise<void> {
    await this.#ask('RECONFIGURE', nbdCommand.reconfigure, nbdAttributes(index, settings));
  }

  /** What is not answered fails. One that is not connected is fine. */
  async disconnect(index: number): Promise<void> {
    await this.#ask('DISCONNECT', nbdCommand.disconnect, nbdAttributes(index, {}));
  }

  #ask(what: string, command: number, attributes: NetlinkAttribute[]): Promise<Buffer[]> {
    const family = this.#family;
    const version = nbdFamilyVersion;
    return send(this.#calls, { what, family, version, command, attributes });
  }
}

interface NetlinkQuestion {
  /** for messages of errors */
  what: string;
  family: number;
  version: number;
  command: number;
  attributes: NetlinkAttribute[];
}

/** The attributes of each answer. Over a socket of its own, so that nobody takes another's answers. */
async function send(calls: SystemCalls, { what, ...question }: NetlinkQuestion): Promise<Buffer[]> {
  const fd = calls.socket(...netlinkSocket);
  if (fd < 0) throw new NetlinkError('a netlink socket', calls.errno());
  try {
    const flags = netlinkFlag.request | netlinkFlag.ack;
    const bytes = encodeNetlinkRequest({ ...question, flags, sequence });
    const sent = await new Promise<number>((resolve, reject) => {
      calls.sendto(
        fd,
        bytes,
        bytes.length,
        0,
        kernelAddress,
        kernelAddress.length,
        (error, length) => {
          if (error) reject(error);
          else resolve(length);
        },
      );
    });
    if (sent !== bytes.length) throw new Error(`netlink ${what} was not sent`);
    return answersTo(what, calls, fd);
  } finally {
    calls.close(fd);
  }
}

/** `struct sockaddr_nl` of the kernel itself. */
const kernelAddress = Buffer.alloc(12);
kernelAddress.writeUInt16LE(netlinkSocket[0]);

/** What one socket asks is the only question there: its number says nothing. */
const sequence = 1;

function answersTo(what: string, calls: SystemCalls, fd: number): Buffer[] {
  const answers: Buffer[] = [];
  const buffer = Buffer.alloc(receiveBytes);
  for (let n = 0; n < maxAnswers; n += 1) {
    const length = calls.recv(fd, buffer, buffer.length, dontWait);
    if (length < 0) {
      const number = calls.errno();
      if (number === tryAgain) break;
      throw new NetlinkError(`the answer to netlink ${what}`, number);
    }
    for (const message of decodeNetlinkMessages(Buffer.from(buffer.subarray(0, length)))) {
      if (message.sequence !== sequence) continue;
      if (message.kind === 'message') answers.push(message.attributes);
      if (message.kind !== 'ack') continue;
      if (message.errno === 0) return answers;
      throw new NetlinkError(`netlink ${what}`, message.errno);
    }
  }
  throw new Error(`netlink ${what} was not answered`);
}
