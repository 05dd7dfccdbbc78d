import {
  decodeAttributes,
  listAttributes,
  numberAttribute,
  textAttribute,
  type NetlinkAttribute,
} from './netlink-codec.ts';

/** Numbers of linux/nbd-netlink.h. */
export const nbdFamilyName = 'nbd';
export const nbdFamilyVersion = 1;
export const nbdMulticastGroup = 'nbd_mc_group';

export const nbdCommand = {
  connect: 1,
  disconnect: 2,
  reconfigure: 3,
  linkDead: 4,
  status: 5,
} as const;

const attribute = {
  index: 1,
  sizeBytes: 2,
  blockSizeBytes: 3,
  timeout: 4,
  serverFlags: 5,
  sockets: 7,
  deadConnectionTimeout: 8,
  deviceList: 9,
  backendIdentifier: 10,
} as const;
const socketItem = 1;
const socketFd = 1;
const deviceIndex = 1;
const deviceConnected = 2;

/** Numbers of linux/genetlink.h: the family that knows the others. */
export const controlFamily = 0x10;
export const controlFamilyVersion = 2;
export const getFamilyCommand = 3;
const controlAttribute = { familyId: 1, familyName: 2, multicastGroups: 7 } as const;
const groupAttribute = { name: 1, id: 2 } as const;

/** What a device is connected with, or from now on has. Times in seconds, as the kernel counts them. */
export interface NbdNetlinkSettings {
  sizeBytes?: number;
  blockSizeBytes?: number;
  /** a request without an answer for so long ends its connection, and is sent again */
  timeoutSeconds?: number;
  /** without any connection requests wait for so long */
  deadConnectionTimeoutSeconds?: number;
  /** transmission flags of the server */
  serverFlags?: number;
  sockets?: readonly number[];
  /** the same at each call for a device: the kernel refuses another (Linux 5.14 on) */
  backendIdentifier?: string;
}

/** `index` null: the kernel takes a free device. */
export function nbdAttributes(
  index: number | null,
  settings: NbdNetlinkSettings,
): NetlinkAttribute[] {
  const { sockets, backendIdentifier } = settings;
  const attributes: NetlinkAttribute[] = [];
  if (index !== null) attributes.push(numberAttribute(attribute.index, index, 32));
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

/** Which device an answer or a LINK_DEAD is about; null when it does not say. */
export function nbdIndexOf(attributes: Buffer): number | null {
  return numberIn(decodeAttributes(attributes).get(attribute.index));
}

/** Of an answer to STATUS: whether each device has a connection. */
export function nbdStatusOf(attributes: Buffer): Map<number, boolean> {
  const list = decodeAttributes(attributes).get(attribute.deviceList);
  const found = new Map<number, boolean>();
  for (const { value } of list ? listAttributes(list) : []) {
    const item = decodeAttributes(value);
    const index = numberIn(item.get(deviceIndex));
    if (index !== null) found.set(index, (item.get(deviceConnected)?.[0] ?? 0) !== 0);
  }
  return found;
}

export function familyQuery(name: string): NetlinkAttribute[] {
  return [textAttribute(controlAttribute.familyName, name)];
}

/** The family's number, and those of its multicast groups by name; null when it is no such answer. */
export function familyOf(attributes: Buffer): { id: number; groups: Map<string, number> } | null {
  const found = decodeAttributes(attributes);
  const id = found.get(controlAttribute.familyId);
  if (!id || id.length < 2) return null;
  const groups = new Map<string, number>();
  const list = found.get(controlAttribute.multicastGroups);
  for (const { value } of list ? listAttributes(list) : []) {
    const group = decodeAttributes(value);
    const name = group.get(groupAttribute.name);
    const groupId = numberIn(group.get(groupAttribute.id));
    if (name && groupId !== null) groups.set(name.toString('utf8').replace(/\0.*$/s, ''), groupId);
  }
  return { id: id.readUInt16LE(0), groups };
}

function numberIn(value: Buffer | undefined): number | null {
  return value && value.length >= 4 ? value.readUInt32LE(0) : null;
}
