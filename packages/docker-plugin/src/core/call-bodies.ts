import { StorError } from '@stor/protocol';
import { z } from 'zod';
import { maxCallerIdLength } from './limits.ts';

const name = z.string().min(1);

/** What each call of `VolumeDriver` is given; fields that are not named here are not looked at. */
const bodies = {
  create: z.object({
    Name: name,
    // dockerd sends null for none
    Opts: z.record(z.string(), z.string()).nullish(),
  }),
  named: z.object({ Name: name }),
  mount: z.object({ Name: name, ID: z.string().min(1).max(maxCallerIdLength) }),
} as const;

export type CallBody<K extends keyof typeof bodies> = z.infer<(typeof bodies)[K]>;

/** The JSON object that a request carries; none is an empty one. Throws INVALID_ARGUMENT. */
export function parseBody(text: string): unknown {
  if (text.trim() === '') return {};
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `the request is no JSON: ${(error as Error).message.slice(0, 200)}`,
      { cause: error },
    );
  }
}

/** Throws INVALID_ARGUMENT, which names the field and what is wrong with it. */
export function readBody<K extends keyof typeof bodies>(kind: K, body: unknown): CallBody<K> {
  const parsed = bodies[kind].safeParse(body);
  if (parsed.success) return parsed.data as CallBody<K>;
  const problems = parsed.error.issues.map(
    ({ path, message }) => `${path.join('.') || '(request)'}: ${message}`,
  );
  throw new StorError('INVALID_ARGUMENT', `the request is not valid: ${problems.join('; ')}`);
}
