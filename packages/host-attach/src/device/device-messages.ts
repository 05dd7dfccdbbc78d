import { errorCodes, StorError } from '@stor/protocol';
import { z } from 'zod';
import type { DeviceSpec, DeviceState } from './device-processes.ts';

/** Messages between an agent and its device processes: one JSON value in a line. */

const address = z.union([
  z.string().min(1).max(4_096),
  z.strictObject({ host: z.string().min(1).max(255), port: z.int().min(1).max(65_535) }),
  z.strictObject({ path: z.string().min(1).max(4_096) }),
]);
/** of one export; as many as `ReconnectingNbdClient` takes */
const addresses = z.array(address).min(1).max(256);
const sizeBytes = z.int().positive();
const means = z.enum(['nbd-kernel', 'fuse-loop']);

/** Bytes are written in base64. */
const tls = z.strictObject({
  mode: z.enum(['require', 'allow']).optional(),
  certificates: z.string().optional(),
  ca: z.string().optional(),
  cert: z.string().optional(),
  key: z.string().optional(),
  pskFile: z.string().optional(),
  username: z.string().optional(),
  psk: z.strictObject({ identity: z.string(), key: z.base64() }).optional(),
  hostname: z.string().optional(),
  verifyPeer: z.boolean().optional(),
});

const spec = z.strictObject({
  id: z.string(),
  exportName: z.string().max(4_096),
  addresses,
  tls: tls.optional(),
  readOnly: z.boolean(),
  sizeBytes,
  means,
  dir: z.string(),
});

const state = z.object({
  id: z.string(),
  pid: z.int().positive(),
  path: z.string(),
  means,
  sizeBytes,
  readOnly: z.boolean(),
  address: z.string().nullable(),
  failure: z.string().nullable(),
});

const call = z.discriminatedUnion('call', [
  z.strictObject({ call: z.literal('state') }),
  z.strictObject({ call: z.literal('setAddresses'), addresses }),
  z.strictObject({ call: z.literal('grow'), sizeBytes }),
  z.strictObject({ call: z.literal('stop'), force: z.boolean() }),
]);
export type DeviceCall = z.infer<typeof call>;

const answer = z.union([
  z.object({ state }),
  z.object({
    error: z.object({
      code: z.enum(errorCodes),
      message: z.string(),
      details: z.record(z.string(), z.string()).optional(),
    }),
  }),
]);

export function specText(given: DeviceSpec): string {
  const { psk } = given.tls ?? {};
  const tlsText = psk
    ? { ...given.tls, psk: { ...psk, key: Buffer.from(psk.key).toString('base64') } }
    : given.tls;
  return JSON.stringify({ ...given, ...(tlsText ? { tls: tlsText } : {}) });
}

/** Throws INVALID_ARGUMENT. */
export function parseSpec(text: string): DeviceSpec {
  const { tls: given, ...rest } = parseMessage(spec, text);
  if (!given) return rest;
  const { psk, ...others } = given;
  const key = psk ? { psk: { ...psk, key: Buffer.from(psk.key, 'base64') } } : {};
  const { mode, ...texts } = others;
  return { ...rest, tls: { ...texts, ...(mode ? { mode } : {}), ...key } };
}

/** Throws INVALID_ARGUMENT. */
export function parseCall(text: string): DeviceCall {
  return parseMessage(call, text);
}

export function stateText(given: DeviceState): string {
  return JSON.stringify({ state: given });
}

export function errorText(error: StorError): string {
  const { code, message, details } = error;
  return JSON.stringify({ error: { code, message, details } });
}

/** What a device process answered. Throws the error that it told, or PROTOCOL. */
export function parseAnswer(text: string): DeviceState {
  let parsed: z.infer<typeof answer>;
  try {
    parsed = parseMessage(answer, text);
  } catch (cause) {
    const reason = `a device process answered what is no answer: ${(cause as Error).message}`;
    throw new StorError('PROTOCOL', reason, { cause });
  }
  if ('state' in parsed) return parsed.state;
  const { code, message, details } = parsed.error;
  throw new StorError(code, message, details ? { details } : {});
}

function parseMessage<T>(schema: z.ZodType<T>, text: string): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new StorError('INVALID_ARGUMENT', 'the message is not JSON', { cause });
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new StorError('INVALID_ARGUMENT', `the message is wrong: ${z.prettifyError(result.error)}`);
}
