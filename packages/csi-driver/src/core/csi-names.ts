import { idPattern, volumeNamePattern } from '@stor/protocol';
import type { Texts } from '../messages.ts';

/** SHA-256 of a text in lower-case hexadecimal digits: chance-free, so it is an argument. */
export type Digest = (text: string) => string;

/** Names of this form are ours, so that no other name is kept as one of them. */
const hashedName = /^csi-[0-9a-f]{40}$/;
/** Digits of the digest: two names never meet in 160 bits. */
const nameDigits = 40;

/** Labels of what this driver makes; operators read them, and the driver compares them. */
export const labelKeys = {
  /** the name that the orchestrator gave, when a label can hold it */
  name: 'csi/name',
  /** otherwise its UTF-8 bytes in base64url, cut into `csi/name64.0`, `csi/name64.1` … */
  name64: 'csi/name64.',
  /** digest of what it was asked for with, to tell a repeated request from another one */
  made: 'csi/made',
  /** id of the snapshot or volume that it began as */
  source: 'csi/source',
  /** file system that it gets when nobody names one */
  fs: 'csi/fs',
  /** of the members of a group snapshot: digest of the volumes that were asked for */
  group: 'csi/group',
} as const;

const labelValue = /^[A-Za-z0-9_.:/-]{1,128}$/;
const labelChars = 128;

/**
 * The name in Stor of what the orchestrator calls `name`. The same one gives the same, two give two. A
 * legal name is kept (`pvc-…`), unless it looks like an id or like a name that is made here.
 */
export function storName(name: string, digest: Digest): string {
  const isKept = volumeNamePattern.test(name) && !idPattern.test(name) && !hashedName.test(name);
  return isKept ? name : `csi-${digest(name).slice(0, nameDigits)}`;
}

/** Labels that keep the whole name, whatever is in it. */
export function nameLabels(name: string): Texts {
  if (labelValue.test(name)) return { [labelKeys.name]: name };
  const text = base64url(new TextEncoder().encode(name));
  const labels: Texts = {};
  for (let part = 0; part * labelChars < text.length; part++) {
    labels[`${labelKeys.name64}${part}`] = text.slice(part * labelChars, (part + 1) * labelChars);
  }
  return labels;
}

/** Whether these are the labels of something that was made under this name. */
export function isNamed(labels: Texts, name: string): boolean {
  return Object.entries(nameLabels(name)).every(([key, value]) => labels[key] === value);
}

/** Made by this driver, under whatever name. */
export function isOfCsi(labels: Texts): boolean {
  return labelKeys.name in labels || `${labelKeys.name64}0` in labels;
}

const digits = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';

function base64url(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += 3) {
    const [a = 0, b = 0, c = 0] = bytes.subarray(at, at + 3);
    const group = (a << 16) | (b << 8) | c;
    const left = bytes.length - at;
    const count = left >= 3 ? 4 : left + 1;
    for (let i = 0; i < count; i++) text += digits.charAt((group >> (18 - 6 * i)) & 63);
  }
  return text;
}

/** Text that is the same for the same value, whatever the order of its keys. */
export function canonicalText(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalText).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value ?? null);
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, inner]) => `${JSON.stringify(key)}:${canonicalText(inner)}`).join(',')}}`;
}
