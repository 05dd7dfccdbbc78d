import {
  decodeAttributes,
  numberAttribute,
  textAttribute,
  type NetlinkAttribute,
} from './netlink-codec.ts';

/** Numbers of linux/nbd-netlink.h. */
export const nbdFamilyName = 'nbd';
export const nbdFamilyVersion = 1;

export const nbdCommand = {
  connect: 1,
  disconnect: 2,
  reconfigure: 3,
} as const;

const attribute = {
  index: 1,
  sizeBytes: 2,
  blockSizeBytes: 3,
  timeout: 4,
  serverFlags: 5,
  sockets: 7,
  deadConnectionTimeout: 8,
  backendIdentifier: 10,
} as const;
const socketItem = 1;
const socketFd = 1;

/** Numbers of linux/genetlink.h: the family that knows the others. */
export const controlFamily = 0x10;
export const controlFamilyVersion = 2;
export const getFamilyCommand = 3;
const controlAttribute = { familyId: 1, familyName: 2 } as const;

/** What a device is connected with, or from now on has. Times in seconds, as the kernel counts them. */
export interface NbdNetlinkSettings {
  sizeBytes?: number;
  blockSizeBytes?: number;
  /** a request without an answer for so long ends its connection, and is sent again over another */
  timeoutSeconds?: number;
  /** without any connection requests wait for so long */
  deadConnectionTimeoutSeconds?: number;
  /** transmission flags of the server */
  serverFlags?: number;
  sockets?: readonly number[];
  /** the same at each call for a device: the kernel refuses another (Linux 5.14 on) */
  backendIdentifier?: string;
}

export function nbdAttributes(index: number, settings: NbdNetlinkSettings): NetlinkAttribute[] {
  const { sockets, backendIdentifier } = settings;
  const attributes = [numberAttribute(attribute.index, index, 32)];
  const numbers: [number, number | undefined][] = [
    [attribute.sizeBytes, settings.sizeBytes],
    [attribute.blockSizeBytes, settings.blockSizeBytes],
    [attribute.timeout, settings.timeoutSeconds],
    [attribute.deadConnectionTimeout, settings.deadConnectionTimeoutSeconds],
    [attribute.serverFlags, settings.serverFlags],
  ];
  for (const [type, value] of numbers) {
    if (value !== undefined) attributes.push(numberAttribute(type, value, 64));
  }
  if (sockets) {
    const items = sockets.map((fd) => ({
      type: socketItem,
      value: [numberAttribute(socketFd, fd, 32)],
    }));
    attributes.push({ type: attribute.sockets, value: items });
  }
  if (backendIdentifier !== undefined) {
    attributes.push(textAttribute(attribute.backendIdentifier, backendIdentifier));
  }
  return attributes;
}

export function familyQuery(name: string): NetlinkAttribute[] {
  return [textAttribute(controlAttribute.familyName, name)];
}

/** The family's number; null when it is no such answer. */
export function familyOf(attributes: Buffer): number | null {
  const id = decodeAttributes(attributes).get(controlAttribute.familyId);
  return id && id.length >= 2 ? id.readUInt16LE(0) : null;
}
