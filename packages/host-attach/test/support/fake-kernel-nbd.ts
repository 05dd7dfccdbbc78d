import fs from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import {
  command,
  commandFlag,
  requestHeaderBytes,
  simpleReplyBytes,
  simpleReplyMagic,
  writeRequest,
} from 'nbd-client-js';
import type { KernelConnect, KernelNbd } from '../../src/device/kernel-nbd.ts';

interface Ask {
  type: number;
  offset?: number;
  length?: number;
  payload?: Buffer;
  flags?: number;
  /** which connection; one after another unless given */
  over?: number;
}

export interface Answer {
  errno: number;
  data: Buffer;
}

/** One connected device, as a kernel has it: sends requests over the sockets that it was given. */
export class FakeKernelDevice {
  readonly settings: KernelConnect;
  sizeBytes: number;
  /** connections that the other side has ended */
  broken = 0;
  readonly sockets: net.Socket[];
  readonly #waiting = new Map<number, { length: number; done: (answer: Answer) => void }>();
  #cookie = 0;

  constructor(settings: KernelConnect) {
    this.settings = settings;
    this.sizeBytes = settings.sizeBytes;
    this.sockets = settings.sockets.map((fd) => {
      const socket = new net.Socket({ fd, readable: true, writable: true });
      let got = Buffer.alloc(0);
      socket.on('data', (part: Buffer) => (got = this.#receive(Buffer.concat([got, part]))));
      socket.on('error', () => {});
      socket.once('close', () => (this.broken += 1));
      return socket;
    });
  }

  /** Never resolves when the connection ends first. */
  ask({
    type,
    offset = 0,
    payload,
    length = payload?.length ?? 0,
    flags = 0,
    over,
  }: Ask): Promise<Answer> {
    this.#cookie += 1;
    const cookie = this.#cookie;
    const header = Buffer.alloc(requestHeaderBytes);
    writeRequest(header, 0, { flags, type, cookieHigh: 7, cookieLow: cookie, offset, length });
    const socket = this.sockets[over ?? cookie % this.sockets.length];
    return new Promise((done) => {
      this.#waiting.set(cookie, { length: type === command.read ? length : 0, done });
      socket?.write(payload ? Buffer.concat([header, payload]) : header);
    });
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const { errno, data } = await this.ask({ type: command.read, offset, length });
    if (errno !== 0) throw new Error(`read: errno ${errno}`);
    return data;
  }

  async write(offset: number, payload: Buffer, fua = false): Promise<void> {
    const flags = fua ? commandFlag.fua : 0;
    const { errno } = await this.ask({ type: command.write, offset, payload, flags });
    if (errno !== 0) throw new Error(`write: errno ${errno}`);
  }

  /** Says goodbye over each connection, as the kernel does. */
  disconnect(): void {
    const header = Buffer.alloc(requestHeaderBytes);
    const fields = { flags: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };
    writeRequest(header, 0, { ...fields, type: command.disconnect });
    for (const socket of this.sockets) socket.end(header);
    for (const { done } of this.#waiting.values()) done({ errno: 5, data: Buffer.alloc(0) });
    this.#waiting.clear();
  }

  /** What is left of the bytes. */
  #receive(bytes: Buffer): Buffer<ArrayBuffer> {
    let at = 0;
    while (bytes.length - at >= simpleReplyBytes) {
      if (bytes.readUInt32BE(at) !== simpleReplyMagic) throw new Error('no simple reply');
      const errno = bytes.readUInt32BE(at + 4);
      if (bytes.readUInt32BE(at + 8) !== 7) throw new Error('not the cookie that was sent');
      const cookie = bytes.readUInt32BE(at + 12);
      const asked = this.#waiting.get(cookie);
      if (!asked) throw new Error(`nobody has asked with cookie ${cookie}`);
      const length = errno === 0 ? asked.length : 0;
      const end = at + simpleReplyBytes + length;
      if (end > bytes.length) break;
      this.#waiting.delete(cookie);
      asked.done({ errno, data: Buffer.from(bytes.subarray(at + simpleReplyBytes, end)) });
      at = end;
    }
    return Buffer.from(bytes.subarray(at));
  }
}

/** A kernel that a test plays: the other end of the sockets that a device process hands over. */
export class FakeKernelNbd implements KernelNbd {
  readonly connected = new Map<number, FakeKernelDevice>();
  readonly all: FakeKernelDevice[] = [];
  readonly #dir: string;
  /** devices of other programs */
  readonly busy = new Set<number>();
  /** it does not keep whose a device is, as Linux before 5.14 */
  isOld = false;
  /** /dev is another one than this kernel's */
  hasNoFiles = false;
  /** it connects no device */
  refusal: Error | null = null;
  /** somebody has the device open, so it stays after it was disconnected */
  isOpened = false;

  /** @param dir in place of /dev; a device is an ordinary file there */
  constructor(dir: string) {
    this.#dir = dir;
  }

  get device(): FakeKernelDevice {
    const [device] = this.connected.values();
    if (!device) throw new Error('no device is connected');
    return device;
  }

  async connect(settings: KernelConnect): Promise<boolean> {
    const device = new FakeKernelDevice(settings);
    this.all.push(device);
    if (this.refusal !== null || this.busy.has(settings.index)) {
      for (const socket of device.sockets) socket.destroy();
      if (this.refusal !== null) throw this.refusal;
      return false;
    }
    this.connected.set(settings.index, device);
    if (!this.hasNoFiles) fs.writeFileSync(this.path(settings.index), '');
    return true;
  }

  async resize(index: number, backend: string, sizeBytes: number): Promise<void> {
    const device = this.connected.get(index);
    if (device?.settings.backend !== backend) throw new Error('EINVAL');
    device.sizeBytes = sizeBytes;
  }

  async disconnect(index: number): Promise<void> {
    this.connected.get(index)?.disconnect();
    if (!this.isOpened) this.connected.delete(index);
  }

  devices(): Map<number, string> {
    const known = [...this.connected].map(([index, { settings }]) => {
      return [index, this.isOld ? '' : settings.backend] as const;
    });
    return new Map(known);
  }

  sizeBytes(index: number): number {
    return this.connected.get(index)?.sizeBytes ?? 0;
  }

  path(index: number): string {
    return join(this.#dir, `nbd${index}`);
  }
}
