import { z } from 'zod';
import { errorCodes, grpcStatusOf, StorError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';

/** Trailing metadata that carries the error itself; the gRPC status is only its shadow. */
export const errorMetadataKey = 'stor-error-bin';

/** Metadata sits in HTTP/2 headers, which peers bound at 8 KiB or more: the text is cut below it. */
const maxErrorMessageChars = 4_096;
const maxErrorDetailChars = 512;
const maxErrorDetails = 16;

const wireError = z.object({
  code: z.string(),
  message: z.string(),
  details: z.record(z.string(), z.string()).default({}),
});

export interface WireStatus {
  /** gRPC status number */
  status: number;
  /** for people who use a bare gRPC client */
  text: string;
  /** value of `errorMetadataKey` */
  metadata: Uint8Array;
}

/** How an error leaves a server. The cause stays here: it may hold what a client must not see. */
export function encodeRpcError(error: StorError): WireStatus {
  const details = Object.fromEntries(
    Object.entries(error.details)
      .slice(0, maxErrorDetails)
      .map(([key, value]) => [key, value.slice(0, maxErrorDetailChars)]),
  );
  const message = error.message.slice(0, maxErrorMessageChars);
  const json = JSON.stringify({ code: error.code, message, details });
  return {
    status: grpcStatusOf[error.code],
    text: `${error.code}: ${message.replaceAll(/[^\x20-\x7e]/g, '?')}`,
    metadata: new TextEncoder().encode(json),
  };
}

function isErrorCode(code: string): code is ErrorCode {
  return (errorCodes as readonly string[]).includes(code);
}

/** Null when the bytes are no error of ours. A code of a newer version becomes INTERNAL. */
export function decodeRpcError(metadata: Uint8Array): StorError | null {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder().decode(metadata));
  } catch {
    return null;
  }
  const parsed = wireError.safeParse(json);
  if (!parsed.success) return null;
  const { code, message, details } = parsed.data;
  return isErrorCode(code)
    ? new StorError(code, message, { details })
    : new StorError('INTERNAL', `${code}: ${message}`, { details });
}
