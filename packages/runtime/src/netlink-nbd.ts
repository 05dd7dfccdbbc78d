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
  nbdIndexOf,
  nbdMulticastGroup,
  nbdStatusOf,
  type NbdNetlinkSettings,
} from './core/nbd-netlink.ts';
import {
  decodeNetlinkMessages,
  encodeNetlinkRequest,
  netlinkFlag,
  type NetlinkAttribute,
  type NetlinkMessage,
} from './core/netlink-codec.ts';

/** AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC (linux/netlink.h) */
const netlinkSocket = [16, 3 | 0o2000000, 16] as const;
/** SOL_NETLINK and NETLINK_ADD_MEMBERSHIP */
const netlinkLevel = 270;
const addMembership = 1;
/** MSG_DONTWAIT, and MSG_PEEK with it */
const dontWait = 0x40;
const peek = 0x02 | dontWait;
const shutdownBoth = 2;
const errno = { noEntry: 2, again: 11, noBuffers: 105 } as const;
/** The kernel writes no longer message here (bytes). */
const receiveBytes = 64 * 1024;
/** It answers within the call that sends, in some messages; more would be another's. */
const maxAnswers = 64;

type Call = (...args: (number | Buffer | null)[]) => number;

interface SystemCalls {
  socket: Call;
  sendto: Call;
  recv: Call;
  setsockopt: Call;
  close: Call;
  dup: Call;
  shutdown: Call;
  errno(): number;
}

let loaded: SystemCalls | Error | null = null;

function systemCalls(): SystemCalls {
  if (!loaded) {
    try {
      const ffi = createRequire(import.meta.url)('koffi') as typeof koffi;
      const libc = ffi.load('libc.so.6');
      loaded = {
        socket: libc.func('int socket(int domain, int type, int protocol)'),
        sendto: libc.func(
          'int64_t sendto(int fd, const void *bytes, size_t length, int flags, const void *to, uint32_t toLength)',
        ),
        recv: libc.func('int64_t recv(int fd, void *bytes, size_t length, int flags)'),
        setsockopt: libc.func(
          'int setsockopt(int fd, int level, int name, const void *value, uint32_t length)',
        ),
        close: libc.func('int close(int fd)'),
        dup: libc.func('int dup(int fd)'),
        shutdown: libc.func('int shutdown(int fd, int how)'),
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
 * within the call that sends it, so nothing here waits for anybody else.
 */
export class NetlinkNbd {
  readonly #calls: SystemCalls;
  readonly #fd: number;
  readonly #events: number;
  readonly #buffer = Buffer.alloc(receiveBytes);
  #family = 0;
  #sequence = 0;
  #closed = false;

  private constructor(calls: SystemCalls) {
    this.#calls = calls;
    this.#fd = this.#open();
    this.#events = this.#open();
  }

  /** Null: the kernel has no NBD, or its module is not loaded. Throws for all else. */
  static open(): NetlinkNbd | null {
    const link = new NetlinkNbd(systemCalls());
    try {
      if (link.#resolve()) return link;
    } catch (error) {
      link.close();
      throw error;
    }
    link.close();
    return null;
  }

  /** The number of the device; it is there, with this size. */
  connect(settings: NbdNetlinkSettings): number {
    const answers = this.#ask('CONNECT', nbdCommand.connect, nbdAttributes(null, settings));
    for (const answer of answers) {
      const index = nbdIndexOf(answer);
      if (index !== null) return index;
    }
    throw new Error('the kernel connected an NBD device and did not say which');
  }

  /** Its sockets take the place of connections that are dead. */
  reconfigure(index: number, settings: NbdNetlinkSettings): void {
    this.#ask('RECONFIGURE', nbdCommand.reconfigure, nbdAttributes(index, settings));
  }

  /** What is not answered fails. One that is not connected is fine. */
  disconnect(index: number): void {
    this.#ask('DISCONNECT', nbdCommand.disconnect, nbdAttributes(index, {}));
  }

  isConnected(index: number): boolean {
    const answers = this.#ask('STATUS', nbdCommand.status, nbdAttributes(index, {}));
    return answers.some((answer) => nbdStatusOf(answer).get(index) === true);
  }

  /** Devices that have lost a connection since the last call; `lost`: some may not be told. */
  takeDeadLinks(): { devices: Set<number>; lost: boolean } {
    const devices = new Set<number>();
    let lost = false;
    for (let n = 0; n < maxAnswers; n += 1) {
      const received = this.#receive(this.#events);
      if (received === 'nothing') break;
      if (received === 'lost') {
        lost = true;
        continue;
      }
      for (const message of received) {
        if (message.kind !== 'message' || message.command !== nbdCommand.linkDead) continue;
        const index = nbdIndexOf(message.attributes);
        if (index !== null) devices.add(index);
      }
    }
    return { devices, lost };
  }

  /** Works twice. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#calls.close(this.#fd);
    this.#calls.close(this.#events);
  }

  #open(): number {
    const fd = this.#calls.socket(...netlinkSocket);
    if (fd < 0) throw new NetlinkError('a netlink socket', this.#calls.errno());
    return fd;
  }

  #resolve(): boolean {
    let answers: Buffer[];
    try {
      answers = this.#send({
        what: 'GETFAMILY',
        family: controlFamily,
        version: controlFamilyVersion,
        command: getFamilyCommand,
        attributes: familyQuery(nbdFamilyName),
      });
    } catch (error) {
      if (error instanceof NetlinkError && error.errno === errno.noEntry) return false;
      throw error;
    }
    const found = answers.map(familyOf).find((family) => family !== null);
    const group = found?.groups.get(nbdMulticastGroup);
    if (!found || group === undefined) throw new Error('netlink tells no family and group of nbd');
    this.#family = found.id;
    const value = Buffer.alloc(4);
    value.writeUInt32LE(group);
    if (this.#calls.setsockopt(this.#events, netlinkLevel, addMembership, value, 4) === 0) {
      return true;
    }
    throw new NetlinkError('joining the events of nbd', this.#calls.errno());
  }

  #ask(what: string, command: number, attributes: NetlinkAttribute[]): Buffer[] {
    const family = this.#family;
    return this.#send({ what, family, version: nbdFamilyVersion, command, attributes });
  }

  /** The attributes of each answer. */
  #send({
    what,
    ...request
  }: {
    what: string;
    family: number;
    version: number;
    command: number;
    attributes: NetlinkAttribute[];
  }): Buffer[] {
    this.#sequence += 1;
    const sequence = this.#sequence;
    const flags = netlinkFlag.request | netlinkFlag.ack;
    const bytes = encodeNetlinkRequest({ ...request, flags, sequence });
    const kernel = Buffer.alloc(12);
    kernel.writeUInt16LE(netlinkSocket[0]);
    if (this.#calls.sendto(this.#fd, bytes, bytes.length, 0, kernel, kernel.length) < 0) {
      throw new NetlinkError(`netlink ${what}`, this.#calls.errno());
    }
    const answers: Buffer[] = [];
    for (let n = 0; n < maxAnswers; n += 1) {
      const received = this.#receive(this.#fd);
      if (typeof received === 'string') break;
      for (const message of received) {
        if (message.sequence !== sequence) continue;
        if (message.kind === 'message') answers.push(message.attributes);
        if (message.kind !== 'ack') continue;
        if (message.errno === 0) return answers;
        throw new NetlinkError(`netlink ${what}`, message.errno);
      }
    }
    throw new Error(`netlink ${what} was not answered`);
  }

  #receive(fd: number): NetlinkMessage[] | 'nothing' | 'lost' {
    const length = this.#calls.recv(fd, this.#buffer, this.#buffer.length, dontWait);
    if (length >= 0) return decodeNetlinkMessages(Buffer.from(this.#buffer.subarray(0, length)));
    const number = this.#calls.errno();
    if (number === errno.again) return 'nothing';
    if (number === errno.noBuffers) return 'lost';
    throw new NetlinkError('receiving from netlink', number);
  }
}

/** A connection that the kernel uses, and this process holds as well. */
export class SharedSocket {
  readonly fd: number;
  readonly #calls: SystemCalls;
  #closed = false;

  /** @param fd stays the caller's: this has its own for the same connection */
  constructor(fd: number) {
    this.#calls = systemCalls();
    this.fd = this.#calls.dup(fd);
    if (this.fd < 0) throw new NetlinkError('another descriptor of a socket', this.#calls.errno());
  }

  /** The other side, this side or the network has ended it. */
  get isOver(): boolean {
    const length = this.#calls.recv(this.fd, Buffer.alloc(1), 1, peek);
    return length === 0 || (length < 0 && this.#calls.errno() !== errno.again);
  }

  /** For the kernel too. */
  end(): void {
    this.#calls.shutdown(this.fd, shutdownBoth);
  }

  /** For this process only. Works twice. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#calls.close(this.fd);
  }
}
